"""Processes of this host, and ports for them."""

import socket

import psutil


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment_of(process: psutil.Process) -> dict[str, str]:
    """The environment it was started with; of one that has ended, nothing."""
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # a zombie's is denied
        return {}


def processes_of(airflow_home: str) -> list[psutil.Process]:
    """Every process, of whatever session or parent, that was started for the Airflow in that folder."""
    return [process for process in psutil.process_iter() if environment_of(process).get("AIRFLOW_HOME") == airflow_home]
