"""Airflow's REST API, as far as these tests use it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.patience import PATIENCE_S

FINISHED = {"success", "failed"}


class Api:
    """A logged-in client of one server."""

    def __init__(self, address: str, user: str, password: str):
        token = httpx.post(f"{address}/auth/token", json={"username": user, "password": password}, timeout=PATIENCE_S)
        self._client = httpx.Client(
            base_url=f"{address}/api/v2",
            headers={"Authorization": f"Bearer {token.json()['access_token']}", "Accept": "application/json"},
            timeout=PATIENCE_S,
        )

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._client.get(path, params=query).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._ask("POST", path, body)

    def patch(self, path: str, **body: Any) -> None:
        self._ask("PATCH", path, body).raise_for_status()

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        """Have it done; on SQLite, a second time if the first was refused before anything of it was done.

        Airflow's API server writes to its log of actions on the thread of all its asynchronous sessions. Where one of
        these has begun to write, both stand still until SQLite gives the log up, and the request is answered by 500.
        """
        answer = self._client.request(method, path, json=body)
        if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR and "Database error" in answer.text:
            return self._client.request(method, path, json=body)
        return answer

    def delete(self, path: str) -> None:
        self._client.delete(path).raise_for_status()

    def wait_for_dags(self, dag_ids: set[str]) -> set[str]:
        """Wait until the server knows `dag_ids`, and return all that it knows; no file of DAGs may be wrong."""
        while not dag_ids <= (known := {dag["dag_id"] for dag in self.get("/dags")["dags"]}):
            assert self.get("/importErrors")["import_errors"] == []
            time.sleep(0.5)
        return known

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run of `dag_id` and return its id."""
        answer = self.post(f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf}).raise_for_status()
        return answer.json()["dag_run_id"]

    def wait_for_run(self, dag_id: str, run_id: str) -> str:
        """Wait until the run has ended (the test's own timeout is the limit) and return its state."""
        while (state := self.get(f"/dags/{dag_id}/dagRuns/{run_id}")["state"]) not in FINISHED:
            time.sleep(0.5)
        return state

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """The run's task instances by task id."""
        instances = self.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {instance["task_id"]: instance for instance in instances}

    def tries(self, dag_id: str, run_id: str) -> dict[str, int]:
        return {task_id: instance["try_number"] for task_id, instance in self.tasks(dag_id, run_id).items()}

    def answer(self, dag_id: str, run_id: str, task_id: str, give: Callable[[str], None], scheduler_log: Path) -> None:
        """Have `give` answer what the task asks, at the path that it is given, until the task has ended.

        Airflow loses an answer that comes before its scheduler has noted the pause, and calls the try failed.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        while (task := self.tasks(dag_id, run_id)[task_id])["state"] not in (*FINISHED, "skipped"):
            key = f"dag_id='{dag_id}', task_id='{task_id}', run_id='{run_id}', try_number={task['try_number']}"
            noted = f"event with state success for task instance TaskInstanceKey({key},"
            is_asked = task["state"] == "awaiting_input" and noted in scheduler_log.read_text()
            if is_asked and not self.get(path)["response_received"]:
                give(path)
            time.sleep(0.5)

    def choose(self, option: str) -> Callable[[str], None]:
        """What gives the answer `option` through the API."""
        return lambda path: self.patch(path, chosen_options=[option], params_input={})

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """What the task returned."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path, deserialize=True)["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        """The log of one try of a task."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        return "\n".join(str(line["event"]) for line in self.get(path)["content"])
