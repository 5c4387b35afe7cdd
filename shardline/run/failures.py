"""What stopped a task, left in the run directory for who looks at the run: `failures/TASK.json`.

The DAG names run and task in the environment; a task by hand, or a rank, says its error on its own terminal or log
alone. A task that succeeds removes what an earlier try left.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import ShardlineError
from shardline.base.remedies import advised
from shardline.run.directory import Home, RunDirectory


def failures_folder(run: RunDirectory) -> Path:
    return run.path / "failures"


def task_name(task_id: str, map_index: int | None = None) -> str:
    """What a task is called here: of one that Airflow maps, each of its parts by its number, from 1."""
    return task_id if map_index is None or map_index < 0 else f"{task_id}-{map_index + 1}"


def failure_file(run: RunDirectory, task: str) -> Path:
    """Where the failure of `task` stands, named as `task_name` does."""
    return failures_folder(run) / f"{re.sub(r'[^A-Za-z0-9._-]', '_', task)}.json"


def record_outcome(home: Home, environment: Mapping[str, str], error: Exception | None) -> None:
    """Leave `error` for the task that `environment` names, or remove what there is where the task succeeded."""
    names = [environment.get(f"SHARDLINE_{name}_ID") for name in ("DAG", "RUN", "TASK")]
    dag_id, run_id, task = names
    if not (dag_id and run_id and task) or "OMPI_COMM_WORLD_RANK" in environment:
        return
    file = failure_file(RunDirectory(home.run(dag_id, run_id)), task)
    try:
        if error is None:
            file.unlink(missing_ok=True)
        else:
            atomic.write_text(file, _document(task, error))
    except OSError as problem:  # what stopped the task may be what stops this too: a full disk
        print(f"{file}: {problem.strerror}: the page of the run will not show this", file=sys.stderr, flush=True)


def _document(task: str, error: Exception) -> str:
    document = {"task": task, "error": type(error).__name__, "message": _message(error), "time": time.time()}
    return json.dumps(document, indent=1) + "\n"


def _message(error: Exception) -> str:
    """In words; of a defect, whose message may say nothing without its kind, where the rest stands."""
    if isinstance(error, OSError):
        return advised(error)
    return str(error) if isinstance(error, ShardlineError) else f"{error}; the task's log has the traceback"
