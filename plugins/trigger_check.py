"""Wrong parameters are refused when a run is triggered, not by its first task.

Airflow checks each parameter by itself. This middleware of its API server reads the document that a trigger brings,
from the form or by REST, and answers 400 where its parameters do not go together or one is unknown, in the words in
which the first task would refuse it. `retraining` is left to that: its defaults are known to its DAG file alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

from shardline.base.errors import ConfigError
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.parameters import Parameters
from shardline.settings.run_config import RunConfig

PARAMETERS: Mapping[str, type[Parameters]] = {
    "sharded_training": RunConfig,
    "merge_checkpoint": MergeCheckpointConfig,
    "housekeeping": HousekeepingConfig,
}
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
        parameters = _parameters_of(scope)
        if parameters is None:
            await self._app(scope, receive, send)
            return
        messages = await _body(receive)
        problem = _problem(parameters, b"".join(message.get("body", b"") for message in messages))
        if problem:
            await _refuse(problem, send)
        else:
            await self._app(scope, _replay(messages, receive), send)


def _parameters_of(scope: Mapping[str, Any]) -> type[Parameters] | None:
    """What the triggered DAG takes, where `scope` is a trigger of one of ours."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    match = _TRIGGER.search(scope["path"])
    return PARAMETERS.get(unquote(match["dag_id"])) if match else None


async def _body(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """`receive`, once more from the start."""
    waiting = iter(messages)

    async def again() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return again


def _problem(parameters: type[Parameters], body: bytes) -> str:
    """What is wrong with the parameters in a trigger's body; nothing where it has none: that is Airflow's to judge."""
    try:
        conf = json.loads(body).get("conf")
    except (ValueError, AttributeError):
        return ""
    if not isinstance(conf, dict):
        return ""
    try:
        parameters.from_json(json.dumps(conf))
    except ConfigError as error:
        return str(error)
    return ""


async def _refuse(problem: str, send: Send) -> None:
    answer = json.dumps({"detail": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
