"""MPIJobs and their pods by Kubernetes' API, through Airflow's hook: a cluster that is away for a while is waited for.

Airflow's provider cncf.kubernetes is imported when it is needed, since Airflow imports this file without it, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowNotFoundException
from urllib3.exceptions import HTTPError

from shardline.base.errors import ConfigError, LaunchError

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

JOB_LABEL = "training.kubeflow.org/job-name"
ROLE_LABEL = "training.kubeflow.org/job-role"
"""What the mpi-operator puts on the pods of a job; a role is `launcher` or `worker`."""

TRY = "shardline-try"
"""The annotation that tells the job of one try from that of another: both have the same name."""

_KIND = {"group": "kubeflow.org", "version": "v2beta1", "plural": "mpijobs"}
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PASSING = (401, 408, 409, 429)  # of the 4xx: a token is renewed, a server is busy
_DELETE_TIMEOUT_S = 3  # Airflow kills a task 5 s after it has told it to stop

T = TypeVar("T")


class Refused(LaunchError):
    """Kubernetes says no, and would say so again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class MPIJobs:
    """The MPIJobs of one namespace.

    What can pass is tried again for `patience` seconds, every `interval`; then `LaunchError` is raised, and at once
    `Refused` for what can't.
    """

    def __init__(self, hook: Any, namespace: str | None, patience: float, interval: float, log: Logger) -> None:
        self.namespace = namespace or hook.get_namespace() or _own_namespace()
        self._objects, self._pods = hook.custom_object_client, hook.core_v1_client
        self._patience, self._interval, self._log = patience, interval, log

    @property
    def _where(self) -> dict[str, str]:
        return {**_KIND, "namespace": self.namespace}

    def get(self, name: str) -> dict[str, Any] | None:
        """The job as it stands; None where there is none."""
        try:
            return dict(self._patiently(lambda: self._objects.get_namespaced_custom_object(**self._where, name=name)))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def create(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Create `job`, once, whatever happens to the answer; the job as it stands then."""
        name, mine = job["metadata"]["name"], job["metadata"]["annotations"][TRY]

        def request() -> dict[str, Any]:
            from kubernetes.client import ApiException

            try:
                return dict(self._objects.create_namespaced_custom_object(**self._where, body=job))
            except ApiException as error:
                if error.status != 409:
                    raise
            there = self._objects.get_namespaced_custom_object(**self._where, name=name)
            if there["metadata"].get("annotations", {}).get(TRY) != mine:
                raise LaunchError(f"another try of this task has just created MPIJob {name}: this one leaves it alone")
            return dict(there)  # an earlier request of ours, whose answer was lost

        return self._patiently(request)

    def remove(self, name: str, uid: str) -> None:
        """Ask for the end of the job `name` if it is still the one with `uid`. It stays until its pods have gone."""
        self._patiently(lambda: self._delete(name, uid))

    def remove_at_once(self, name: str, uid: str) -> None:
        """As `remove`, with one attempt and no exception: whoever asks may have seconds left."""
        from kubernetes.client import ApiException

        try:
            self._delete(name, uid)
        except (ApiException, HTTPError) as error:
            self._log.warning(
                "MPIJob %s could not be deleted and may still run: kubectl delete --namespace %s mpijob %s. %s",
                *(name, self.namespace, name, _said(error)),
            )

    def _delete(self, name: str, uid: str) -> None:
        from kubernetes.client import ApiException

        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            self._objects.delete_namespaced_custom_object(
                **self._where, name=name, body=options, _request_timeout=_DELETE_TIMEOUT_S
            )
        except ApiException as error:
            if error.status not in (404, 409):  # gone, or another try's by now
                raise

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The job's pods, the oldest first."""
        selector = f"{JOB_LABEL}={name}"
        answer = self._patiently(
            lambda: self._pods.list_namespaced_pod(self.namespace, label_selector=selector, _preload_content=False).data
        )
        pods: list[dict[str, Any]] = json.loads(answer)["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def log(self, pod: str, container: str, since_seconds: int | None) -> str | None:
        """What the container has written, each line behind its time; None where it can't be had now."""
        from kubernetes.client import ApiException

        try:
            answer = self._pods.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                timestamps=True,
                since_seconds=since_seconds,
                _preload_content=False,  # else a log that looks like JSON comes as Python's repr of it
            )
            return bytes(answer.data).decode(errors="backslashreplace")
        except ApiException as error:
            if error.status == 403:
                raise Refused(_said(error), 403) from None
            return None
        except HTTPError:
            return None

    def _patiently(self, request: Callable[[], T]) -> T:
        from kubernetes.client import ApiException

        away_since = None
        while True:
            try:
                answer = request()
            except (ApiException, HTTPError) as error:
                problem, status = _said(error), getattr(error, "status", None) or 0
                if 400 <= status < 500 and status not in _PASSING:
                    raise Refused(problem, status) from None
            else:
                if away_since is not None:
                    self._log.info("Kubernetes answers again")
                return answer
            if away_since is None:
                away_since = time.monotonic()
                self._log.warning("Kubernetes does not answer, which is waited for: %s", problem)
            if time.monotonic() - away_since > self._patience:
                raise LaunchError(f"Kubernetes did not answer for {self._patience:.0f} s: {problem}")
            time.sleep(self._interval)


def connect(connection: str) -> Any:
    """Airflow's hook for the connection of that name; `ConfigError` where there is none, or nothing to connect to."""
    try:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
        from kubernetes.config import ConfigException
    except ImportError as error:
        raise ConfigError(
            f"an MPIJob takes Airflow's provider cncf.kubernetes ({error}): install requirements-kubernetes.txt"
        ) from error
    hook = KubernetesHook(conn_id=connection)
    try:
        hook.api_client  # noqa: B018  (reads the connection)
    except AirflowNotFoundException as error:
        raise ConfigError(f"expected a connection {connection} in Airflow (Admin → Connections), found none") from error
    except ConfigException as error:
        raise ConfigError(
            f"connection {connection}: {error}; run the task in the cluster, or give the connection a kubeconfig"
        ) from error
    return hook


def _own_namespace() -> str:
    """That of the pod which this process runs in."""
    return _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.is_file() else "default"


def _said(error: Any) -> str:
    """What the API server says in an ApiException; what went wrong on the way there in another."""
    if not hasattr(error, "body"):
        return str(error)
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        message = error.reason
    return f"Kubernetes: {message} ({error.status})"
