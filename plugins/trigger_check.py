"""Wrong parameters are refused when a run is triggered, not by its first task.

Airflow checks each parameter by itself. This middleware of its API server reads the document that a trigger brings,
from the form or by REST, and answers 400 where its parameters do not go together, one is unknown, or the network cannot
be cut so, in the words in which the first task would refuse it. Which DAGs have parameters of ours, and with which
defaults, is asked of Airflow's own copy of them: those whose form has exactly the fields of a class of ours. Described
trainings are checked against their descriptions where the API server has SHARDLINE_TRAININGS; without it, at least the
numbers are, which their forms take as text.

Nothing of a request is read before Airflow, asked as its own route asks it, says that the user may trigger the DAG;
whom it refuses, it answers itself, as if this module were not there. What is read is bounded, and not checked on the
event loop, which other requests need meanwhile. Of networks, those alone are looked at that come with this project:
others are the user's own code, which no server imports.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user, requires_access_dag
from airflow.utils.session import create_session
from fastapi import HTTPException, Request
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from starlette.concurrency import run_in_threadpool

from shardline.base.errors import ConfigError
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.parameters import INTEGER, NUMBER, Parameters
from shardline.settings.run_config import RunConfig
from shardline.settings.run_parameters import BUILT_IN_NETWORKS
from shardline.settings.training_config import form_of
from shardline.settings.trainings import FOLDER, trainings_in

PARAMETERS: tuple[type[Parameters], ...] = (RunConfig, MergeCheckpointConfig, HousekeepingConfig)
MOST_BYTES = 1 << 20
"""Of a trigger's body: parameters are a few kilobytes."""
MOST_LAYERS = 32
"""Of a network that is looked at before a run starts."""

_TRIGGER = re.compile(r"/api/v2/dags/(?P<dag_id>[^/]+)/dagRuns/?$")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class TriggerCheck:
    """ASGI middleware around Airflow's API."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a trigger with wrong parameters; hand everything else on as it came."""
        dag_id = _triggered(scope)
        form = None
        if dag_id is not None and await _may_trigger(dag_id, Request(scope)):
            form = await run_in_threadpool(_form, scope["app"].state.dag_bag, dag_id)
        if form is None:
            await self._app(scope, receive, send)
            return
        messages = await _body(receive)
        body = b"".join(message.get("body", b"") for message in messages)
        if len(body) > MOST_BYTES:
            await _refuse(413, f"expected a trigger of at most {MOST_BYTES} bytes, found more", send)
        elif problem := await run_in_threadpool(_problem, form, body):
            await _refuse(400, problem, send)
        else:
            await self._app(scope, _replay(messages, receive), send)


def _triggered(scope: Mapping[str, Any]) -> str | None:
    """The DAG, where `scope` is a trigger of one."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    match = _TRIGGER.search(scope["path"])
    return match["dag_id"] if match else None


class _Form(Protocol):
    """The fields of a DAG's form."""

    def problem(self, conf: Mapping[str, Any]) -> str:
        """What is wrong with what was filled in; empty where nothing is."""


@dataclass(frozen=True)
class _OfOurs:
    """The parameters that a DAG takes, a class of ours, and its own defaults of them."""

    parameters: type[Parameters]
    defaults: Mapping[str, Any]

    def problem(self, conf: Mapping[str, Any]) -> str:
        try:
            config = self.parameters.from_json(json.dumps({**self.defaults, **conf}))
            if isinstance(config, RunConfig):
                _check_network(config)
        except ConfigError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class _OfNumbers:
    """Other fields, of a training that somebody describes: the schemas of the numbers among them."""

    numbers: Mapping[str, Mapping[str, Any]]

    def problem(self, conf: Mapping[str, Any]) -> str:
        typed = {name: conf[name].strip() for name in self.numbers if isinstance(conf.get(name), str)}
        problems = [line for name, text in typed.items() for line in _problems_of(name, text, self.numbers[name])]
        return "bad parameters:\n  " + "\n  ".join(problems) if problems else ""


def _problems_of(name: str, text: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a number that was typed: Airflow holds limits of numbers alone, not of texts."""
    if not re.search(schema["pattern"], text):
        yield f"{name}: expected a number like {schema['examples'][0]}, found {text[:500]!r}"
        return
    number = int(text) if schema["pattern"] == INTEGER else float(text)
    for error in Draft202012Validator(schema).iter_errors(number):
        yield f"{name}: {error.message[:500]}"


def _form(dag_bag: Any, dag_id: str) -> _Form | None:
    """What the form of the DAG has, where it is a class of ours or has numbers as we ask for them."""
    with create_session() as session:
        dag = dag_bag.get_latest_version_of_dag(dag_id, session=session)
    if dag is None:
        return None
    defaults = dict(dag.params.dump())
    for parameters in (*PARAMETERS, *_described(dag_id)):
        if parameters.model_fields.keys() == defaults.keys():
            return _OfOurs(parameters, defaults)
    schemas = {name: dag.params.get_param(name).schema for name in defaults}
    numbers = {name: schema for name, schema in schemas.items() if schema.get("pattern") in (INTEGER, NUMBER)}
    return _OfNumbers(numbers) if numbers else None


def _described(dag_id: str) -> Iterator[type[Parameters]]:
    """The form of the described training that the DAG is of, where there is one here."""
    folder = os.environ.get(FOLDER, "").strip()
    if folder and (form := _forms(folder, _version(Path(folder))).get(dag_id)):
        yield form


def _version(folder: Path) -> tuple[tuple[str, int], ...]:
    """The folder's descriptions, and when each was written."""
    return tuple((file.name, file.stat().st_mtime_ns) for file in sorted(folder.glob("*.toml")))


@lru_cache(maxsize=1)
def _forms(folder: str, _version: tuple[tuple[str, int], ...]) -> Mapping[str, type[Parameters]]:
    """The forms of described trainings; kept until a description is written again."""
    return {training.name: form_of(training) for training in trainings_in(Path(folder)).found.values()}


async def _may_trigger(dag_id: str, request: Request) -> bool:
    """Whether Airflow knows who asks, and lets them trigger the DAG: by the two dependencies of its own route."""
    check = requires_access_dag(method="POST", access_entity=DagAccessEntity.RUN, param_dag_id=dag_id)
    try:
        user = await get_user(request, None, await bearer_scheme(request))
        await run_in_threadpool(check, request, user)
    except HTTPException:
        return False
    return True


async def _body(receive: Receive) -> list[Message]:
    """What `receive` brings, until the body is whole or too large."""
    messages = [await receive()]
    size = len(messages[0].get("body", b""))
    while messages[-1].get("more_body") and size <= MOST_BYTES:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
    return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """`receive`, once more from the start."""
    waiting = iter(messages)

    async def again() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return again


def _problem(form: _Form, body: bytes) -> str:
    """What is wrong with the parameters in a trigger's body; nothing where it has none: that is Airflow's to judge."""
    try:
        conf = json.loads(body).get("conf")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if not isinstance(conf, dict):
        return ""
    return form.problem(conf)


def _check_network(config: RunConfig) -> None:
    """Raise `ConfigError` where a network of this project cannot be trained so.

    Its blocks are alike: two of them, or one for each stage, tell what a thousand would, which take seconds to look at.
    Very many stages are left to the first task.
    """
    layers = min(config.layers, max(config.pipeline_stages, 2))
    if config.network not in BUILT_IN_NETWORKS or config.strategy_load_file is not None or layers > MOST_LAYERS:
        return
    from shardline.recipes.lookup import check_network_of  # NumPy: for who triggers, not for every start

    check_network_of(config.model_copy(update={"layers": layers}))


async def _refuse(status: int, problem: str, send: Send) -> None:
    answer = json.dumps({"detail": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
