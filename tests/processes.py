"""Processes of this host, and ports for them."""

import random
import socket
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.patience import wait_until

_TAKEN: list[socket.socket] = []


def free_port() -> int:
    """A port that nothing listens on, and that is nobody else's while this process lives.

    Not one that the kernel gives to connections, as it would between a service's end and its new start, nor one that a
    browser refuses; nor one that another process was told: an abstract socket, which ends with its process, marks it.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(11_000, first if first > 12_000 else 32_768)  # where connections get all, one of those
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0shardline-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _TAKEN.append(mark)
        return port


def environment_of(process: psutil.Process) -> dict[str, str]:
    """The environment it was started with; of one that has ended, nothing."""
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # a zombie's is denied
        return {}


def processes_of(airflow_home: str) -> list[psutil.Process]:
    """Every process, of whatever session or parent, that was started for the Airflow in that folder."""
    return [process for process in psutil.process_iter() if environment_of(process).get("AIRFLOW_HOME") == airflow_home]


def wait_until_ended(processes: Sequence[psutil.Process]) -> None:
    """Return when none of them runs, whether or not somebody has asked what became of it."""
    wait_until(lambda: all(status_of(process) in ("", psutil.STATUS_ZOMBIE) for process in processes))


def status_of(process: psutil.Process) -> str:
    """Of one that is gone, nothing."""
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return ""
