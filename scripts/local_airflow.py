"""Airflow on one machine, for one user: its home in the checkout, SQLite, LocalExecutor, loopback only.

Used by `make demo`, `make ui`, `make airflow` and the tests. Everything Airflow is told stands in `environment`: no
configuration file, and nothing of the caller's own Airflow or Python leaks in, but for where metrics and lineage go.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from shardline.base import atomic

PROJECT = Path(__file__).resolve().parent.parent
HOME = PROJECT / ".airflow"
DEVICE_SLOTS = "8"
_TOLD = ("AIRFLOW__METRICS__", "AIRFLOW__OPENLINEAGE__")
"""Who is told what Airflow does is the caller's to say."""


def environment(home: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of every Airflow process whose home is `home`; `base` is the caller's."""
    inherited = {
        name: value
        for name, value in base.items()
        if not name.startswith(("AIRFLOW", "PYTHON")) or name.startswith(_TOLD)
    }
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",  # LocalExecutor starts this many processes
        # Twenty runs triggered at once keep writers waiting for longer than SQLite's 5 seconds.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        "GLOG_v": base.get("GLOG_v", "3"),  # MindSpore's log: errors only; its warnings fill screens
        "PYTHONPATH": str(PROJECT),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)]),
    }
    return inherited | settings


def initialise(home: Path, variables: Mapping[str, str]) -> None:
    """Bring the database of `home` to the installed Airflow's version and create the pool; at once where that is done.

    `variables` is `environment(home, …)`. Interrupted, it starts again the next time.
    """
    marker = home / "initialised"
    state = f"{metadata.version('apache-airflow')} {device_slots(variables)}\n"
    if marker.is_file() and marker.read_text() == state:
        return
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _airflow(variables, "db", "migrate")
    _airflow(variables, "pools", "set", "device", device_slots(variables), "Cards of this machine")
    atomic.write_text(marker, state)


def device_slots(variables: Mapping[str, str]) -> str:
    """Slots of the pool `device`; the same setting says how many cards `shardline.launch.card_leases` shares out."""
    return variables.get("SHARDLINE_DEVICE_SLOTS") or DEVICE_SLOTS


def _airflow(variables: Mapping[str, str], *arguments: str) -> None:
    """Run Airflow's command line quietly; what it said is shown only if it fails."""
    command = [sys.executable, "-m", "airflow", *arguments]
    finished = subprocess.run(
        command, env=dict(variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if finished.returncode:
        sys.exit(f"{finished.stdout}\n`airflow {' '.join(arguments)}` failed ({finished.returncode}): see above")


def main() -> int:
    """`python -m scripts.local_airflow ARGUMENTS`: Airflow's own command line on the home in the checkout."""
    variables = environment(HOME, os.environ)
    initialise(HOME, variables)
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *sys.argv[1:]], variables)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
