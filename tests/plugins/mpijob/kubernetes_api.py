"""An imitation of Kubernetes' API server, as far as an MPIJob is made, watched and deleted through it. No cluster.

It answers by HTTP what the API documents. It allows what docker/kubernetes/rbac.yaml allows. What a cluster would do in
the course of time, it does in steps: one each time the job is read.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from scripts.local_airflow import PROJECT

NAMESPACE = "training"
PATHS = {
    "mpijobs": re.compile(rf"/apis/kubeflow\.org/v2beta1/namespaces/{NAMESPACE}/mpijobs(?:/(?P<name>[^/]+))?"),
    "pods": re.compile(rf"/api/v1/namespaces/{NAMESPACE}/pods"),
    "pods/log": re.compile(rf"/api/v1/namespaces/{NAMESPACE}/pods/(?P<name>[^/]+)/log"),
}


class Answer(Exception):
    """A refusal."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def permissions() -> set[tuple[str, str]]:
    role, _ = yaml.safe_load_all((PROJECT / "docker" / "kubernetes" / "rbac.yaml").read_text())
    return {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


class Cluster:
    """The server, and what is in its one namespace."""

    def __init__(self) -> None:
        self.job: dict[str, Any] | None = None
        self.pods: list[dict[str, Any]] = []
        self.logs: dict[str, list[tuple[float, str]]] = {}
        self.steps: list[Callable[[], None]] = []
        self.allowed = permissions()
        self.refusals: dict[tuple[str, str], list[Answer]] = {}
        self.requests: list[tuple[str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.away = 0
        self.lose_answers = 0
        self.looks_until_gone = 2
        self.pods_at_creation: list[int] = []
        self._lines = 0
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # What a step may do

    def condition(self, kind: str, reason: str = "", message: str = "") -> None:
        conditions = self.job.setdefault("status", {}).setdefault("conditions", [])
        conditions.append({"type": kind, "status": "True", "reason": reason, "message": message})

    def pod(self, role: str, phase: str = "Running", state: dict[str, Any] | None = None) -> None:
        """Set the state of the job's pod of that role."""
        job = (self.job or self.created[-1])["metadata"]["name"]
        name = f"{job}-{role}"
        labels = {"training.kubeflow.org/job-name": job, "training.kubeflow.org/job-role": role}
        metadata = {"name": name, "labels": labels, "creationTimestamp": "2026-01-31T09:00:00Z"}
        containers = [{"name": role, "state": state or {"running": {}}}]
        self.pods = [pod for pod in self.pods if pod["metadata"]["name"] != name]
        self.pods.append({"metadata": metadata, "status": {"phase": phase, "containerStatuses": containers}})

    def write(self, *lines: str, age: float = 0) -> None:
        """The launcher writes lines, `age` seconds ago."""
        log = self.logs.setdefault(f"{self.job['metadata']['name']}-launcher", [])
        for line in lines:
            self._lines += 1
            log.append((time.monotonic() - age, f"2026-01-31T09:00:00.{self._lines:09d}Z {line}\n"))

    def leave(self, job: dict[str, Any]) -> None:
        """The job `job` runs, since an earlier try."""
        metadata = {**job["metadata"], "uid": "earlier", "annotations": {"shardline-try": "earlier"}}
        self.job = {**job, "metadata": metadata}
        self.pod("launcher")

    # What the API does

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        verb, resource, name = _meaning(method, path)
        self.requests.append((verb, resource))
        if self.away:
            self.away -= 1
            raise Answer(503, "the server is currently unable to handle the request")
        if (verb, resource) not in self.allowed:
            raise Answer(403, f'{resource} is forbidden: User "worker" cannot {verb} resource "{resource}"')
        if refusals := self.refusals.get((verb, resource)):
            raise refusals.pop(0)
        if resource == "pods":
            return self._list(query["labelSelector"][0])
        if resource == "pods/log":
            return self._log(name, query)
        return {"create": self._create, "get": self._get, "delete": self._remove}[verb](name, body)

    def _list(self, selector: str) -> dict[str, Any]:
        key, _, value = selector.partition("=")
        if self.job is None and self.pods:
            self._fade()
        return {"items": [pod for pod in self.pods if pod["metadata"]["labels"].get(key) == value]}

    def _log(self, name: str, query: dict[str, list[str]]) -> bytes:
        (pod,) = (pod for pod in self.pods if pod["metadata"]["name"] == name)
        if "waiting" in pod["status"]["containerStatuses"][0]["state"]:
            raise Answer(400, "container is waiting to start")
        since = time.monotonic() - float(query.get("sinceSeconds", ["inf"])[0])
        return "".join(line for at, line in self.logs.get(name, []) if at >= since).encode()

    def _create(self, _: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.job is not None:
            raise Answer(409, "the object has been created already")
        self.pods_at_creation.append(len(self.pods))
        self.job = {**body, "metadata": {**body["metadata"], "uid": str(uuid.uuid4())}}
        self.created.append(body)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Answer(504, "timed out")
        return self.job

    def _get(self, name: str, _: dict[str, Any]) -> dict[str, Any]:
        if self.job is not None and "deletionTimestamp" in self.job["metadata"]:
            self._fade()
        elif self.steps and self.created:
            self.steps.pop(0)()
        if self.job is None or self.job["metadata"]["name"] != name:
            raise Answer(404, f'mpijobs.kubeflow.org "{name}" not found')
        return self.job

    def _remove(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.job is None:
            raise Answer(404, f'mpijobs.kubeflow.org "{name}" not found')
        if body["preconditions"]["uid"] != self.job["metadata"]["uid"]:
            raise Answer(409, "the UID in the precondition does not match")
        assert body["propagationPolicy"] == "Foreground"
        self.deleted.append(self.job["metadata"]["uid"])
        self.job = {**self.job, "metadata": {**self.job["metadata"], "deletionTimestamp": "2026-01-31T09:00:00Z"}}
        return self.job

    def _fade(self) -> None:
        self.looks_until_gone -= 1
        if self.looks_until_gone == 0:
            self.job, self.pods = None, []


def _meaning(method: str, path: str) -> tuple[str, str, str]:
    """Verb, resource and name, as a role would say them."""
    for resource, pattern in PATHS.items():
        if match := pattern.fullmatch(path):
            name = match.groupdict().get("name") or ""
            verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if name else "list")
            return verb, resource, name
    raise Answer(404, f"no such path: {path}")


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    _one_at_a_time = threading.Lock()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        try:
            with self._one_at_a_time:
                answer = self.cluster.answer(self.command, url.path, parse_qs(url.query), body)
            status = 201 if self.command == "POST" else 200
        except Answer as error:
            status, answer = error.status, {"kind": "Status", "code": error.status, "message": str(error)}
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
