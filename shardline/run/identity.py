"""Which DAG run a run directory belongs to: its `run.json`.

A folder's name tells it only where the run's id has no character that is unsafe in file names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import RunDirectoryError


@dataclass(frozen=True)
class RunIdentity:
    """A DAG run, as Airflow calls it."""

    dag_id: str
    run_id: str


def write_identity(folder: Path, environment: Mapping[str, str]) -> None:
    """Note in `folder` the run that the environment names, if it names one: a task run by hand belongs to none."""
    dag_id, run_id = environment.get("SHARDLINE_DAG_ID"), environment.get("SHARDLINE_RUN_ID")
    if dag_id and run_id:
        atomic.write_text(folder / "run.json", json.dumps(asdict(RunIdentity(dag_id, run_id)), indent=2) + "\n")


def read_identity(folder: Path) -> RunIdentity | None:
    """The run that `folder` belongs to; `None` where nothing says so."""
    file = folder / "run.json"
    try:
        identity = RunIdentity(**json.loads(file.read_bytes()))
        if not isinstance(identity.dag_id, str) or not isinstance(identity.run_id, str):
            raise TypeError(f"found {identity!r:.200}")
        return identity
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise RunDirectoryError(f"{file}: expected a run's dag_id and run_id ({error!r}); remove the file") from error
