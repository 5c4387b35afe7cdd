"""Airflow's API server in this process, with the run page mounted as Airflow mounts it, and real users of three roles.

No scheduler: runs are made through the API and their states set, and their run directories are written by
`benchmarks.run_page.synthetic_run`. (tests/airflow looks at the page while a real training runs.)
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Page
from sqlalchemy import update

from benchmarks.run_page.synthetic_run import Size, write_run
from scripts import ui
from shardline.run.directory import Home, RunDirectory
from tests.dags.conftest import dagbag, registered_dags
from tests.patience import PATIENCE_MS, PATIENCE_S
from tests.processes import free_port

__all__ = ["dagbag", "registered_dags"]

DAG = "sharded_training"
PASSWORDS = {"ada": "admin-secret", "vera": "viewer-secret", "otto": "no-secret"}
ROLES = "ada:admin,vera:viewer,otto:"
SCRIPT = '<script>window.hacked = true</script><img src=x onerror="window.hacked = true">'


@dataclass(frozen=True)
class Site:
    """A running API server."""

    address: str
    home: Home
    tokens: dict[str, str] = field(default_factory=dict)
    """Of who has logged in: one login serves a user's requests, as it does in a browser."""

    def client(self, user: str | None) -> httpx.Client:
        """A browser's requests: `user` logs in and carries the cookie; without one, nobody is logged in."""
        client = httpx.Client(base_url=self.address, timeout=PATIENCE_S, verify=False)  # no certificates need be read
        if user is not None:
            client.cookies.set("_token", self.token(user))
        return client

    def token(self, user: str) -> str:
        if user not in self.tokens:
            login = {"username": user, "password": PASSWORDS[user]}
            answer = self._post("/auth/token", login)
            self.tokens[user] = answer.json()["access_token"]
        return self.tokens[user]

    def trigger(self, run_id: str, dag_id: str = DAG, **conf: Any) -> RunDirectory:
        """A run that Airflow knows, in the state "queued"; its directory is not there yet."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self._post(f"/api/v2/dags/{dag_id}/dagRuns", body, Authorization=f"Bearer {self.token('ada')}")
        return RunDirectory(self.home.run(dag_id, run_id))

    def _post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return httpx.post(self.address + path, json=body, headers=headers, timeout=PATIENCE_S).raise_for_status()

    def set_start(self, run_id: str, task_id: str, moment: datetime) -> None:
        """Say that this task of the run started then."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        with create_session() as session:
            chosen = update(TaskInstance).where(TaskInstance.run_id == run_id, TaskInstance.task_id == task_id)
            session.execute(chosen.values(start_date=moment))

    def set_state(self, run_id: str, state: str, **tasks: str | None) -> None:
        """Say that the run, and these of its tasks, are in these states."""
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        with create_session() as session:
            session.execute(update(DagRun).where(DagRun.run_id == run_id).values(state=state))
            for task_id, task_state in tasks.items():
                chosen = update(TaskInstance).where(TaskInstance.run_id == run_id, TaskInstance.task_id == task_id)
                session.execute(chosen.values(state=task_state, duration=2.5))


@pytest.fixture(scope="session")
def site(registered_dags, tmp_path_factory) -> Iterator[Site]:
    passwords = tmp_path_factory.mktemp("users") / "passwords.json"
    passwords.write_text(json.dumps(PASSWORDS))
    port = free_port()
    os.environ.update(
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS=ROLES,
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE=str(passwords),
        AIRFLOW__API__BASE_URL=f"http://127.0.0.1:{port}",
        AIRFLOW__API__THEME=json.dumps(ui.THEME),
    )
    from airflow.api_fastapi.app import create_app

    server = uvicorn.Server(uvicorn.Config(create_app("core"), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield Site(f"http://127.0.0.1:{port}", Home(Path(os.environ["SHARDLINE_HOME"])))
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def finished_run(site) -> str:
    """The id of a run of 3,000 steps that trained, was merged and validated."""
    run_id = "manual__2026-11-23T09:00:00+00:00"
    write_run(site.trigger(run_id).path, Size(steps=3000))
    done: dict[str, Any] = dict.fromkeys(("prepare_dataset", "train", "merge", "validate"), "success")
    site.set_state(run_id, "success", **done)
    return run_id


@pytest.fixture
def open_page(browser, site) -> Iterator:
    """Open a page as somebody who is logged in; in the end, no script may have failed and no policy been violated."""
    complaints: list[str] = []
    contexts = []

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)

    def open_as(user: str = "vera", theme: str = "light", width: int = 1280) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 860}, color_scheme=theme, base_url=site.address, accept_downloads=True
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        context.add_cookies([{"name": "_token", "value": site.token(user), "url": site.address}])
        page = context.new_page()
        watch(page)
        return page

    yield open_as
    for context in contexts:
        context.close()
    assert complaints == []


def show(page: Page, run_id: str, tab: str, dag_id: str = DAG) -> Page:
    page.goto(f"/run-page/dags/{dag_id}/run?run_id={run_id.replace('+', '%2B')}#{tab}")
    page.wait_for_selector(f"body[data-ready={tab}]")
    return page
