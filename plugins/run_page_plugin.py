"""Registers the run page with Airflow: a tab on every run and task instance, and a list of runs in the navigation.

Airflow loads this file in all of its processes, each task's included; the page itself is loaded by the first request
that an API server gets for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

PREFIX = "/run-page"


async def run_page(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """The page as an ASGI application."""
    from plugins.run_page.app import application

    await application()(scope, receive, send)


def _address(path: str) -> str:
    """Where the browser finds `path` of the page, behind whatever path Airflow itself is served under."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PREFIX + path


_OF_A_RUN = "/dags/{DAG_ID}/run?run_id={RUN_ID}"


_APPLICATIONS: list[Any] = [{"app": run_page, "url_prefix": PREFIX, "name": "Shardline run page"}]
_VIEWS: list[Any] = [
    {"name": "Training", "href": _address("/"), "destination": "nav", "url_route": "sharded-runs"},
    {
        "name": "Sharded run",
        "href": _address(_OF_A_RUN),
        "destination": "dag_run",
        "url_route": "sharded-run",
    },
    {
        "name": "Sharded run",
        "href": _address(_OF_A_RUN + "&task={TASK_ID}"),
        "destination": "task_instance",
        "url_route": "sharded-task",
    },
]


class RunPagePlugin(AirflowPlugin):
    """The page under /run-page, and the places in Airflow's user interface that show it."""

    name = "run_page"
    fastapi_apps = _APPLICATIONS
    external_views = _VIEWS
