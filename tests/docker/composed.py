"""docker/compose.yaml without Docker: its services as processes of this host, on Debian's PostgreSQL and Redis.

Docker Compose itself reads the file, so that commands and environment are those the containers would have. Only what a
container would give differs: addresses, folders, and the names of hosts.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from scripts.local_airflow import PROJECT
from tests.processes import environment_of, free_port, processes_of

DOCKER = PROJECT / "docker"
BIN = Path(sys.executable).parent
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SECRETS = {
    "AIRFLOW_FERNET_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "AIRFLOW_API_SECRET_KEY": "a" * 64,
    "AIRFLOW_JWT_SECRET": "b" * 64,
    "POSTGRES_PASSWORD": "postgres-secret",
    "REDIS_PASSWORD": "redis-secret",
    "AIRFLOW_PASSWORD": "admin-secret",
}
SERVICES = ("postgres", "redis", "init", "api-server", "scheduler", "dag-processor", "triggerer")
QUICKER = {  # a lost task is noticed after seconds instead of five minutes; workers with fewer processes
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__CORE__HOSTNAME_CALLABLE": "tests.docker.composed.container",
}


def compose_command() -> list[str]:
    """Docker Compose, as it is installed; empty where it is not."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 else []


def services(environment_file: Path) -> dict[str, dict[str, Any]]:
    """The services of docker/compose.yaml, as Docker Compose reads them with the variables of `environment_file`."""
    options = ["--project-directory", str(DOCKER), "--env-file", str(environment_file)]
    command = [*compose_command(), *options, "-f", str(DOCKER / "compose.yaml"), "config"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SHARDLINE"))}
    return yaml.safe_load(subprocess.run(command, env=clean, capture_output=True, check=True, text=True).stdout)[
        "services"
    ]


def container() -> str:
    """What a container's host name would be; for Airflow's hostname_callable."""
    return os.environ["CONTAINER"]


class Composed:
    """The stack. `start` and `kill` take a service's name; `worker-cpu.2` is a second container of `worker-cpu`."""

    def __init__(
        self, folder: Path, ports: Mapping[str, int], airflow: Mapping[str, str] | None = None, **settings: str
    ) -> None:
        """`settings` are variables of the file, as in .env; `airflow` overrides its services' own."""
        self.folder, self.ports, self._airflow = folder, dict(ports), dict(airflow or {})
        self.home = folder / "shardline"
        variables = folder / ".env"
        variables.write_text("".join(f"{name}={value}\n" for name, value in {**SECRETS, **settings}.items()))
        self.services = services(variables)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # In /tmp, which every user may enter, unlike `folder`: PostgreSQL refuses to run as root.
        self._database = Path(tempfile.mkdtemp(prefix="shardline-postgres-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self._database, "postgres", "postgres")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['api-server']}"

    def environment(self, name: str) -> dict[str, str]:
        """What a container of the service is started with, the image's own variables included."""
        service = name.partition(".")[0]
        given = {key: self._here(str(value or "")) for key, value in self.services[service]["environment"].items()}
        image = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "SHARDLINE_HOME": str(self.home),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "GLOG_v": "3",
        }
        addresses = {
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.ports["api-server"]),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self.ports["scheduler"]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(self.ports["triggerer"]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self.ports.get(name, 0)),
        }
        inherited = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ}
        return inherited | image | given | QUICKER | self._airflow | addresses | {"CONTAINER": name}

    def start(self, name: str) -> None:
        """Start a service; `init` runs to its end."""
        if name == "postgres":
            self._start_postgres()
            return
        command = [self._here(part) for part in self.services[name.partition(".")[0]]["command"]]
        if name == "redis":
            command += ["--port", str(self.ports["redis"]), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        elif command[0] != "bash":  # the image's entry point puts `airflow` before everything else
            command.insert(0, "airflow")
        if "celery" in command:
            command += ["--celery-hostname", f"celery@{name}"]
        environment = {"PATH": os.environ["PATH"]} if name == "redis" else self.environment(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True
            )
        if name == "init":
            assert process.wait() == 0, (self.folder / "init.log").read_text()
        else:
            self.processes[name] = process

    def kill(self, name: str) -> None:
        """SIGKILL to the service's process group, as the kernel or an operator would."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def restart_database(self) -> None:
        """All connections end at once."""
        self._postgres("pg_ctl", "-D", self._data, "-m", "fast", "-w", "restart", "-l", self._database / "log")

    def revive(self) -> list[str]:
        """Start what has ended, as Docker's `restart: unless-stopped` does; return the names."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            self.start(name)
        return ended

    def wait_until_healthy(self) -> None:
        """Return when the API answers and scheduler and DAG processor report to it."""
        parts = ("metadatabase", "scheduler", "dag_processor")
        while True:
            self.revive()
            try:
                health = httpx.get(f"{self.address}/api/v2/monitor/health", timeout=10).json()
                if all(health[part]["status"] == "healthy" for part in parts):
                    return
            except (httpx.HTTPError, ValueError):
                time.sleep(0.5)
            time.sleep(0.5)

    def processes_with(self, text: str) -> list[psutil.Process]:
        """Every process of this stack, of whatever parent, whose command line has `text`."""
        return [process for process in self._all() if text in " ".join(_command_line(process))]

    def worker_of(self, process: psutil.Process) -> str:
        """The name of the container that the process is in; of one that has ended, nothing."""
        return environment_of(process).get("CONTAINER", "")

    def stop(self) -> None:
        """End everything that was started, and what that started."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        psutil.wait_procs([psutil.Process(process.pid) for process in self.processes.values()], timeout=30)
        for process in self._all():
            process.kill()
        if (self._database / "data" / "postmaster.pid").exists():
            self._postgres("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._database)

    @property
    def _data(self) -> Path:
        return self._database / "data"

    def _all(self) -> list[psutil.Process]:
        return processes_of(str(self.folder / "airflow"))

    def _here(self, text: str) -> str:
        """The addresses of other containers, on this host."""
        text = text.replace("@postgres:5432", f"@127.0.0.1:{self.ports['postgres']}")
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.ports['redis']}")
        text = text.replace("http://api-server:8080", self.address)
        return re.sub(r"\$\$", "$", text)  # Compose's way to write $

    def _start_postgres(self) -> None:
        if not self._data.exists():
            secret = self._database / "secret"
            secret.write_text(self.services["postgres"]["environment"]["POSTGRES_PASSWORD"])
            if os.geteuid() == 0:
                shutil.chown(secret, "postgres", "postgres")
            user = self.services["postgres"]["environment"]["POSTGRES_USER"]
            authentication = ["--auth", "scram-sha-256", "--pwfile", secret, "--username", user]
            self._postgres("initdb", "-D", self._data, "-E", "UTF8", "--locale", "C", "--no-sync", *authentication)
        # No socket file: its path may have 107 bytes. Nothing is flushed: processes die here, machines do not.
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        options = " ".join([f"-p {self.ports['postgres']}", *(f"-c {setting}" for setting in settings)])
        self._postgres("pg_ctl", "-D", self._data, "-w", "-o", options, "-l", self._database / "log", "start")
        name = self.services["postgres"]["environment"]["POSTGRES_DB"]
        secrets = {"PGPASSWORD": self.services["postgres"]["environment"]["POSTGRES_PASSWORD"]}
        address = ["-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U", "airflow"]
        self._postgres("createdb", *address, name, **secrets)

    def _postgres(self, program: str, *arguments: str | Path, **variables: str) -> None:
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*user, str(POSTGRES[-1] / program), *map(str, arguments)]
        said = self.folder / "postgres.log"
        with said.open("ab") as log:
            finished = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=os.environ | {"LC_ALL": "C"} | variables,  # the caller's locale may not exist here
                check=False,
            )
        assert finished.returncode == 0, said.read_text()


@contextmanager
def running(
    folder: Path, workers: Sequence[str], airflow: Mapping[str, str] | None = None, **settings: str
) -> Iterator[Composed]:
    """All services and those workers, healthy, until the end."""
    assert POSTGRES, "this takes PostgreSQL (Debian's postgresql)"
    assert shutil.which("redis-server"), "this takes Redis (Debian's redis-server)"
    assert compose_command(), "this takes Docker Compose (Debian's docker-compose); no container engine"
    names = (*SERVICES, *workers)
    stack = Composed(folder, {name: free_port() for name in names}, airflow, **settings)
    try:
        for name in names:
            stack.start(name)
        stack.wait_until_healthy()
        yield stack
    finally:
        stack.stop()


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
