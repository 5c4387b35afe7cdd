"""The operator that trains on several hosts of a Kubernetes cluster: as an MPIJob of Kubeflow's mpi-operator.

Airflow imports this file wherever it runs; what takes its provider cncf.kubernetes is imported by a task.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from plugins.lineage import WithLineage
from plugins.mpijob.api import TRY, MPIJobs, Refused, connect
from plugins.mpijob.manifest import job_of_run, read_manifest
from plugins.mpijob.progress import LauncherLog, condition_of, exit_codes, state_of, state_of_pods
from plugins.training_metrics import reported
from shardline.base.errors import ConfigError, LaunchError, ShardlineError
from shardline.base.exit_codes import BAD_PARAMETERS
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.run.failures import failure_file, record_outcome


class MPIJobOperator(WithLineage, BaseOperator):
    """Runs the launch of `manifest`, an MPIJob, for this DAG run, whose config.json is there already.

    `connection` is one of the type Kubernetes; where it doesn't exist and has its usual name, the task talks to the
    cluster that it runs in. `namespace` is that of the connection, or of the task's own pod, unless given. The job is
    looked at every `poll_interval` seconds, and the API may be away for `patience` seconds.

    Two launchers never share a run directory: a job that an earlier try has left is removed, and waited for, first.
    However the task ends, its job is deleted; where the worker is killed by SIGKILL, the next try does that.
    """

    def __init__(
        self,
        *,
        manifest: Path,
        connection: str = "kubernetes_default",
        namespace: str | None = None,
        poll_interval: float = 10,
        patience: float = 1800,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest = str(manifest)
        self.connection = connection
        self.namespace = namespace
        self.poll_interval = poll_interval
        self.patience = patience
        self._jobs: MPIJobs | None = None
        self._created: dict[str, Any] | None = None
        self._killed = False

    def execute(self, context: Context) -> Any:
        """Train; return what rank 0 returned. What no retry can repair is `AirflowFailException`."""
        run = {
            "SHARDLINE_DAG_ID": context["dag"].dag_id,
            "SHARDLINE_RUN_ID": context["run_id"],
            "SHARDLINE_TASK_ID": self.task_id,
        }
        home = home_from(os.environ)
        directory = RunDirectory(home.run(context["dag"].dag_id, context["run_id"]))
        record_outcome(home, run, None)  # what is there afterwards, the launcher has left
        try:
            job = job_of_run(read_manifest(Path(self.manifest)), directory.read_config(), run, home.path)
            with reported(directory, home, context["dag"].dag_id, self.log):
                return self._train(job)
        except ShardlineError as error:
            if not failure_file(directory, self.task_id).exists():
                record_outcome(home, run, error)
            if isinstance(error, ConfigError | Refused):
                raise AirflowFailException(f"{error}\nNot tried again.") from None
            raise

    def on_kill(self) -> None:
        """Delete the job, in the few seconds that Airflow gives; its launcher saves a shard set and leaves."""
        self._killed = True
        self._delete()

    def _train(self, job: dict[str, Any]) -> Any:
        jobs = MPIJobs(connect(self.connection), self.namespace, self.patience, self.poll_interval, self.log)
        self._jobs = jobs
        name = job["metadata"]["name"]
        self._remove(jobs, name)
        job["metadata"]["annotations"] = {**job["metadata"].get("annotations", {}), TRY: str(uuid.uuid4())}
        try:
            self._stop_if_killed()
            self._created = jobs.create(job)
            self.log.info("created MPIJob %s in the namespace %s", name, jobs.namespace)
            return self._follow(jobs, name, self._created["metadata"]["uid"])
        finally:
            self._delete()

    def _remove(self, jobs: MPIJobs, name: str) -> None:
        """Remove what an earlier try has left; return when none of its pods is there any more."""
        asked, shown = "", ""
        while (job := jobs.get(name)) is not None or jobs.pods(name):
            if job is not None and job["metadata"]["uid"] != asked:
                self.log.info("removing MPIJob %s, which an earlier try has left", name)
                asked = job["metadata"]["uid"]
                jobs.remove(name, asked)
            elif (state := state_of_pods(jobs.pods(name))) != shown:
                shown = state
                self.log.info("waiting until its pods have gone: %s", state)
            self._pause()

    def _follow(self, jobs: MPIJobs, name: str, uid: str) -> Any:
        """Wait for the end of the job; `LaunchError` unless it succeeds."""
        log, shown = LauncherLog(jobs, self.log), ""
        while True:
            job = jobs.get(name)
            pods = jobs.pods(name)
            log.follow(pods)
            self._stop_if_killed()
            if job is None or job["metadata"]["uid"] != uid:
                raise LaunchError(_explain(f"MPIJob {name} is gone: not this task has deleted it", log))
            if (state := state_of(job, pods)) != shown:
                shown = state
                self.log.info("MPIJob %s: %s", name, state)
            if condition_of(job, "Succeeded"):
                return log.result
            if failed := condition_of(job, "Failed"):
                raise _failure(name, failed, state, exit_codes(pods), log)
            self._pause()

    def _pause(self) -> None:
        self._stop_if_killed()
        time.sleep(self.poll_interval)
        self._stop_if_killed()

    def _stop_if_killed(self) -> None:
        if self._killed:
            raise LaunchError("stopped by Airflow: the MPIJob is deleted; the next try goes on from what it has saved")

    def _delete(self) -> None:
        if self._jobs is not None and self._created is not None:
            metadata = self._created["metadata"]
            self._jobs.remove_at_once(metadata["name"], metadata["uid"])


def _failure(name: str, condition: Mapping[str, Any], state: str, codes: list[int], log: LauncherLog) -> ShardlineError:
    said = ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
    kind = ConfigError if codes and codes[-1] == BAD_PARAMETERS else LaunchError
    return kind(_explain(f"MPIJob {name} failed: {said} ({state})", log))


def _explain(message: str, log: LauncherLog) -> str:
    if not log.last_lines:
        return f"{message}. Its launcher has logged nothing"
    return "\n".join([f"{message}. Its launcher's last lines:", *(f"  | {line}" for line in log.last_lines)])
