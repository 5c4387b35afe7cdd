"""Wrong parameters are refused when a run is triggered, not by its first task.

Airflow checks each parameter by itself. This middleware of its API server reads the document that a trigger brings,
from the form or by REST, and answers 400 where its parameters do not go together or one is unknown, in the words in
which the first task would refuse it; those of a described training, too, where the API server has SHARDLINE_TRAININGS.
`retraining` is left to that: its defaults are known to its DAG file alone.

Nothing of a request is read before Airflow, asked as its own route asks it, says that the user may trigger the DAG;
whom it refuses, it answers itself, as if this module were not there. What is read is bounded, and not checked on the
event loop, which other requests need meanwhile.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user, requires_access_dag
from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from shardline.base.errors import ConfigError
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.parameters import Parameters
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import form_of
from shardline.settings.trainings import FOLDER, trainings_in

PARAMETERS: Mapping[str, type[Parameters]] = {
    "sharded_training": RunConfig,
    "merge_checkpoint": MergeCheckpointConfig,
    "housekeeping": HousekeepingConfig,
}
MOST_BYTES = 1 << 20
"""Of a trigger's body: parameters are a few kilobytes."""

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
        if dag_id is None or not await _may_trigger(dag_id, Request(scope)):
            await self._app(scope, receive, send)
            return
        messages = await _body(receive)
        body = b"".join(message.get("body", b"") for message in messages)
        if len(body) > MOST_BYTES:
            await _refuse(413, f"expected a trigger of at most {MOST_BYTES} bytes, found more", send)
        elif problem := await run_in_threadpool(_problem, parameters_of(dag_id), body):
            await _refuse(400, problem, send)
        else:
            await self._app(scope, _replay(messages, receive), send)


def _triggered(scope: Mapping[str, Any]) -> str | None:
    """The DAG, where `scope` is a trigger of one of ours."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    match = _TRIGGER.search(scope["path"])
    return match["dag_id"] if match and parameters_of(match["dag_id"]) is not None else None


def parameters_of(dag_id: str) -> type[Parameters] | None:
    """What the DAG's trigger takes; None where it is none of ours."""
    if known := PARAMETERS.get(dag_id):
        return known
    folder = os.environ.get(FOLDER, "").strip()
    return _described(folder, _version(Path(folder))).get(dag_id) if folder else None


def _version(folder: Path) -> tuple[tuple[str, int], ...]:
    """The folder's descriptions, and when each was written."""
    return tuple((file.name, file.stat().st_mtime_ns) for file in sorted(folder.glob("*.toml")))


@lru_cache(maxsize=1)
def _described(folder: str, _version: tuple[tuple[str, int], ...]) -> Mapping[str, type[Parameters]]:
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


def _problem(parameters: type[Parameters] | None, body: bytes) -> str:
    """What is wrong with the parameters in a trigger's body; nothing where it has none: that is Airflow's to judge."""
    try:
        conf = json.loads(body).get("conf")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if not isinstance(conf, dict) or parameters is None:
        return ""
    try:
        parameters.from_json(json.dumps(conf))
    except ConfigError as error:
        return str(error)
    return ""


async def _refuse(status: int, problem: str, send: Send) -> None:
    answer = json.dumps({"detail": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
