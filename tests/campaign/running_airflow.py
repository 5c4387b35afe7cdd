"""An Airflow of four processes, as `make ui` starts it, each of which can be killed and started again.

Unlike `make ui`, which ends when one of them does, it goes on: so does one that systemd or a container engine runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from scripts import local_airflow, ui
from scripts.local_airflow import PROJECT
from tests.airflow.rest import Api
from tests.patience import PATIENCE_S
from tests.processes import free_port, processes_of

SETTINGS = {
    # What one of them signed is good after another was started again, as in docker/compose.yaml.
    "AIRFLOW__API__SECRET_KEY": "a" * 64,
    "AIRFLOW__API_AUTH__JWT_SECRET": "b" * 64,
    # A lost task is noticed after a minute instead of five; a busy machine has as long as it takes for all else.
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
    "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
}
EXECUTOR = "airflow worker -- LocalExecutor"
"""How a process of LocalExecutor calls itself; it supervises the task instance that it names, and its child runs it."""


class RunningAirflow:
    """Its processes by name; its runs lie in `shared`."""

    def __init__(self, folder: Path) -> None:
        self.home, self.shared, self.port = folder / "airflow", folder / "shardline", free_port()
        base = os.environ | {"SHARDLINE_HOME": str(self.shared)}
        self._variables = ui.server_environment(self.home, self.port, base) | SETTINGS
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._executors: list[psutil.Process] = []
        local_airflow.initialise(self.home, self._variables)
        (self.home / "logs").mkdir(exist_ok=True)
        password = ui.password(self.home)
        for name in ui.COMPONENTS:
            self.start(name)
        self.wait_until_healthy()
        self.client = Api(f"http://{ui.ADDRESS}:{self.port}", ui.USER, password)

    def start(self, name: str) -> None:
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            self._started[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", *ui.COMPONENTS[name]],
                env=self._variables,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, victim: str, instances: Collection[str]) -> None:
        """SIGKILL to one process: of Airflow's own, which is started again at once, or of one of the task instances."""
        if victim not in ui.COMPONENTS:
            self._wait_for_a_task(victim, instances).kill()
            return
        if victim == "scheduler":
            self._executors += psutil.Process(self._started[victim].pid).children(recursive=True)
        self._started[victim].kill()
        self._started[victim].wait()
        self.start(victim)

    def _wait_for_a_task(self, victim: str, instances: Collection[str]) -> psutil.Process:
        """The process that supervises one of these task instances, or its child, which runs it."""
        names = {f"{EXECUTOR}: {instance}" for instance in instances}
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            executors = psutil.Process(self._started["scheduler"].pid).children()
            for executor in (each for each in executors if _name(each) in names):
                found = [executor] if victim == "supervisor of a task" else _children(executor)
                if found:
                    return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no {victim}: none of {names} is at work")

    def wait_until_healthy(self) -> None:
        """Return when the API answers and scheduler and DAG processor report to it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            ui.refuse_ended(self._started, self.home / "logs")
            try:
                health = httpx.get(f"http://{ui.ADDRESS}:{self.port}/api/v2/monitor/health", timeout=10).json()
                if all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")):
                    return
            except (httpx.HTTPError, ValueError):
                time.sleep(0.5)
            time.sleep(0.5)
        raise AssertionError(f"Airflow is not healthy; see {self.home / 'logs'}")

    def stop(self) -> None:
        """End everything that was started, and what that started."""
        known = [psutil.Process(process.pid) for process in self._started.values() if process.poll() is None]
        children = [child for process in known for child in process.children(recursive=True)]
        for process in self._started.values():
            process.send_signal(signal.SIGTERM)
        psutil.wait_procs(known, timeout=30)
        for process in (*processes_of(str(self.home)), *known, *children, *self._executors):
            if process.is_running():
                process.kill()


def _name(process: psutil.Process) -> str:
    """What the process calls itself; of one that has ended, nothing."""
    try:
        return " ".join(process.cmdline()).strip()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


@contextmanager
def running(folder: Path) -> Iterator[RunningAirflow]:
    airflow = RunningAirflow(folder)
    try:
        yield airflow
    finally:
        airflow.stop()
