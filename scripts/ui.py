"""`make ui`: Airflow's user interface and everything behind it, on loopback, until Ctrl-C.

Starts what `airflow standalone` starts (API server, scheduler, DAG processor, triggerer), each with a log file of its
own. `standalone` itself leaves its processes behind when it is sent SIGTERM; these end with this one, whatever ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx

from scripts import local_airflow, processes

ADDRESS = "127.0.0.1"
USER = "admin"
COMPONENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),  # logs are read from their files: one machine
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
START_TIMEOUT = 300.0


_HAS_BUTTON = "body:has([data-testid=trigger-dag-submit])"
_FORM = ".chakra-dialog__body:has([data-testid=trigger-dag-submit])"
THEME = {
    "globalCss": {
        _FORM: {"display": "flex", "flexDirection": "column"},
        f"{_FORM} > .chakra-alert__root": {"order": 1, "whiteSpace": "pre-line"},
        f"{_FORM} > :has(> * > [data-testid=trigger-dag-submit])": {"order": 2},
        # :has() within :has() would be no selector at all, which drops the rule.
        f"{_HAS_BUTTON}:has(.chakra-dialog__body > .chakra-alert__root) [data-part=group][data-scope=toast]": {
            "display": "none !important"
        },
    }
}
"""Airflow's trigger form shows why it was refused at its top, out of sight, and covers its button with the news that it
was: so, the reason stands above the button, which can be pressed again."""


class Interrupted(BaseException):
    """A signal asked this process to end."""


def server_environment(home: Path, port: int, base: Mapping[str, str]) -> dict[str, str]:
    """`local_airflow.environment`, and where the server listens, who may log in, where the components find it."""
    address = f"http://{ADDRESS}:{port}"
    return local_airflow.environment(home, base) | {
        "AIRFLOW__API__HOST": ADDRESS,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__THEME": json.dumps(THEME),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
    }


def password(home: Path) -> str:
    """The user's password: made once, kept in `passwords.json`, which only this user can read."""
    file = home / "passwords.json"
    try:
        known: dict[str, str] = json.loads(file.read_text())
    except FileNotFoundError:
        known = {USER: secrets.token_urlsafe(12)}
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            json.dump(known, stream)
    return known[USER]


def refuse_used_port(port: int) -> None:
    """Leave with a message where another program listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            sys.exit(f"port {port} on {ADDRESS} cannot be used ({error.strerror}); choose another: make ui PORT=8081")


def wait_until_healthy(port: int, components: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Return when the API answers and all components report to it; leave with a log's end where one has ended."""
    deadline = time.monotonic() + START_TIMEOUT
    while not _healthy(port):
        refuse_ended(components, logs)
        if time.monotonic() > deadline:
            sys.exit(f"Airflow did not answer on port {port} within {START_TIMEOUT:.0f} s; see the logs in {logs}")
        time.sleep(0.5)


def _healthy(port: int) -> bool:
    try:
        health = httpx.get(f"http://{ADDRESS}:{port}/api/v2/monitor/health", timeout=5).json()
    except (httpx.HTTPError, json.JSONDecodeError):
        return False
    return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def refuse_ended(components: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Leave with the last lines of its log where a component has ended."""
    for name, process in components.items():
        if process.poll() is not None:
            end = (logs / f"{name}.log").read_text(errors="replace").splitlines()[-20:]
            sys.exit("\n".join([*end, f"Airflow's {name} ended with code {process.returncode}: see above"]))


def serve(home: Path, port: int) -> NoReturn:
    """Run Airflow until a signal arrives or a component ends."""
    refuse_used_port(port)
    variables = server_environment(home, port, os.environ)
    local_airflow.initialise(home, variables)
    secret = password(home)
    logs = home / "logs"
    print(f"Starting Airflow; logs in {logs}", flush=True)
    components = {
        name: processes.start([sys.executable, "-m", "airflow", *arguments], variables, logs / f"{name}.log")
        for name, arguments in COMPONENTS.items()
    }
    wait_until_healthy(port, components, logs)
    print(f"\n  http://{ADDRESS}:{port}\n  user      {USER}\n  password  {secret}\n\nCtrl-C stops it.", flush=True)
    while True:
        refuse_ended(components, logs)
        processes.reap_orphans({component.pid for component in components.values()})
        time.sleep(1)


def stop_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal end this process in order."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # one is enough; nothing interrupts the stopping
        raise Interrupted

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", type=int, default=8080, help="where the user interface listens, on loopback")
    arguments.add_argument("--home", type=Path, default=local_airflow.HOME, help="Airflow's home")
    chosen = arguments.parse_args()
    processes.adopt_orphans()
    stop_on_signals()
    try:
        serve(chosen.home.absolute(), chosen.port)
    except Interrupted:
        print("\nStopping Airflow …", flush=True)
        return 0
    finally:
        processes.stop_descendants()


if __name__ == "__main__":
    sys.exit(main())
