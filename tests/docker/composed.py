"""docker/compose.yaml without Docker: its services as processes of this host, on Debian's PostgreSQL and Redis.

Docker Compose itself reads the file, so that commands and environment are those the containers would have. Only what a
container would give differs: addresses, folders, and the names of hosts.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from scripts.local_airflow import PROJECT
from tests.patience import PATIENCE_S, wait_until
from tests.processes import environment_of, free_port, processes_of, status_of, wait_until_ended

DOCKER = PROJECT / "docker"
BIN = Path(sys.executable).parent
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
HELD = PROJECT / "tests" / "docker" / "held"
SECRETS = {
    "AIRFLOW_FERNET_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "AIRFLOW_API_SECRET_KEY": "a" * 64,
    "AIRFLOW_JWT_SECRET": "b" * 64,
    "POSTGRES_PASSWORD": "postgres-secret",
    "REDIS_PASSWORD": "redis-secret",
    "AIRFLOW_PASSWORD": "admin-secret",
}
SERVICES = ("postgres", "redis", "init", "api-server", "scheduler", "dag-processor", "triggerer")
OTHERWISE = {
    "AIRFLOW__CORE__HOSTNAME_CALLABLE": "tests.docker.composed.container",
    # What is looked for is looked for often; what counts as lost is Airflow's own default.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    # A busy machine has as long as it takes.
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": str(PATIENCE_S),
    "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": str(PATIENCE_S),
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": str(PATIENCE_S),
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "100",
    # A small machine: DAGs are parsed once, workers have one process unless they are told.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
    "AIRFLOW__API__WORKERS": "1",
}
"""What is unlike the containers, or Airflow's defaults."""


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
        self._hold = folder / "hold.json"
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
            "PYTHONPATH": f"{PROJECT}{os.pathsep}{HELD}",
            "HOLD": str(self._hold),
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
        return inherited | image | given | OTHERWISE | self._airflow | addresses | {"CONTAINER": name}

    def start(self, name: str) -> None:
        """Start a service; `init` runs to its end, databases until they answer."""
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
        self._run(name, command, {"PATH": os.environ["PATH"]} if name == "redis" else self.environment(name))
        if name == "init":
            assert self.processes.pop(name).wait() == 0, (self.folder / "init.log").read_text()
        elif name == "redis":
            wait_until(lambda: self.redis("PING") == "PONG")

    def kill(self, name: str) -> None:
        """SIGKILL to every process of the container at once, as when it is killed."""
        process = self.processes.pop(name)
        self._kill([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)])
        while left := self._of(name):
            self._kill(left)
        process.wait()

    def _kill(self, processes: Sequence[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until_ended(processes)

    @contextmanager
    def holding(self, command: str, event: str, path: str, count: int = 1) -> Iterator[list[psutil.Process]]:
        """Processes that stand still, in the middle of their work, within the block: the first `count` with `command`
        among their arguments, each before its first such call. Those that are alive after the block go on."""
        self._hold.write_text(json.dumps({"command": command, "event": event, "path": path}))
        held: list[psutil.Process] = []

        def are_held() -> bool:
            self.revive()
            found = self.processes_with(command)
            held[:] = [process for process in found if status_of(process) == psutil.STATUS_STOPPED]
            return len(held) >= count

        try:
            wait_until(are_held)
            self._hold.unlink()
            yield held
        finally:
            for process in held:
                if process.is_running():
                    process.resume()

    def lose(self, worker: str) -> None:
        """Kill the worker, and let its tasks have been silent for as long as Airflow waits for them."""
        self.kill(worker)
        self._silence(worker)

    def kill_process_group(self, worker: str) -> None:
        """Kill what one kills of a worker that is in no container: its process group, but not those of its tasks."""
        process = self.processes.pop(worker)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def lose_what_is_left(self, worker: str) -> None:
        """Return when nothing of the killed worker runs, its tasks having been silent for as long as Airflow waits."""
        wait_until_ended(self._of(worker))
        self._silence(worker)

    def _silence(self, worker: str) -> None:
        silent = f"UPDATE task_instance SET last_heartbeat_at = now() - interval '1 hour' WHERE hostname = '{worker}'"
        self.sql(f"{silent} AND state = 'running'")

    def sql(self, statement: str, database: str = "airflow") -> None:
        """Have PostgreSQL do that."""
        secrets = {"PGPASSWORD": self.services["postgres"]["environment"]["POSTGRES_PASSWORD"]}
        address = ["-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U", "airflow", "-d", database]
        self._postgres("psql", *address, "-v", "ON_ERROR_STOP=1", "-c", statement, **secrets)

    def redis(self, *command: str) -> str:
        """What Redis answers."""
        client = ["redis-cli", "-h", "127.0.0.1", "-p", str(self.ports["redis"]), *command]
        environment = {"PATH": os.environ["PATH"], **self.services["redis"]["environment"]}
        return subprocess.run(client, env=environment, capture_output=True, text=True, check=False).stdout.strip()

    def revive(self) -> list[str]:
        """Start what has ended, as Docker's `restart: unless-stopped` does; return the names."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            self.start(name)
        return ended

    def wait_until_healthy(self) -> None:
        """Return when the API answers and scheduler and DAG processor report to it."""
        parts = ("metadatabase", "scheduler", "dag_processor")

        def is_healthy() -> bool:
            self.revive()
            try:
                health = httpx.get(f"{self.address}/api/v2/monitor/health", timeout=60).json()
            except (httpx.HTTPError, ValueError):
                return False
            return all(health[part]["status"] == "healthy" for part in parts)

        wait_until(is_healthy)

    def processes_with(self, text: str) -> list[psutil.Process]:
        """Every process of this stack, of whatever parent, whose command line has `text`."""
        return [process for process in self._all() if text in " ".join(_command_line(process))]

    def worker_of(self, process: psutil.Process) -> str:
        """The name of the container that the process is in; of one that has ended, nothing."""
        return environment_of(process).get("CONTAINER", "")

    def stop(self) -> None:
        """End everything that was started, and what that started."""
        for name in [*self.processes]:
            self.kill(name)
        self._kill(self._all())
        shutil.rmtree(self._database)

    @property
    def _data(self) -> Path:
        return self._database / "data"

    def _of(self, name: str) -> list[psutil.Process]:
        """What runs in that container."""
        return [process for process in self._all() if environment_of(process).get("CONTAINER") == name]

    def _all(self) -> list[psutil.Process]:
        return processes_of(str(self.folder / "airflow"))

    def _here(self, text: str) -> str:
        """The addresses of other containers, on this host."""
        text = text.replace("@postgres:5432", f"@127.0.0.1:{self.ports['postgres']}")
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.ports['redis']}")
        text = text.replace("http://api-server:8080", self.address)
        return re.sub(r"\$\$", "$", text)  # Compose's way to write $

    def _run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the service's process."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._database if name == "postgres" else self.folder,
                start_new_session=True,
            )

    def _start_postgres(self) -> None:
        """PostgreSQL, which makes its database where there is none."""
        variables = self.services["postgres"]["environment"]
        is_new = not self._data.exists()
        if is_new:
            secret = self._database / "secret"
            secret.write_text(variables["POSTGRES_PASSWORD"])
            if os.geteuid() == 0:
                shutil.chown(secret, "postgres", "postgres")
            authentication = ["--auth", "scram-sha-256", "--pwfile", secret, "--username", variables["POSTGRES_USER"]]
            self._postgres("initdb", "-D", self._data, "-E", "UTF8", "--locale", "C", "--no-sync", *authentication)
        # No socket file: its path may have 107 bytes. Nothing is flushed: processes die here, machines do not.
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        options = ["-p", str(self.ports["postgres"]), *(part for setting in settings for part in ("-c", setting))]
        self._run("postgres", _as_postgres("postgres", "-D", self._data, *options), os.environ | {"LC_ALL": "C"})
        ready = _as_postgres("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.ports["postgres"]))
        wait_until(lambda: subprocess.run(ready, cwd="/", check=False).returncode == 0)
        if is_new:
            self.sql(f"CREATE DATABASE {variables['POSTGRES_DB']}", database="postgres")

    def _postgres(self, program: str, *arguments: str | Path, **variables: str) -> None:
        """Run one of its programs to its end."""
        said = self.folder / "postgres.log"
        with said.open("ab") as log:
            finished = subprocess.run(
                _as_postgres(program, *arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=os.environ | {"LC_ALL": "C"} | variables,  # the caller's locale may not exist here
                check=False,
            )
        assert finished.returncode == 0, said.read_text()


def _as_postgres(program: str, *arguments: str | Path) -> list[str]:
    """The command that runs a program of PostgreSQL's, which refuses to run as root, as the user postgres."""
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    return [*user, str(POSTGRES[-1] / program), *map(str, arguments)]


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
