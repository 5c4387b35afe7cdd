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
from shardline.run.directory import Home, RunDirectory


def failures_folder(run: RunDirectory) -> Path:
    return run.path / "failures"


def failure_file(run: RunDirectory, task: str) -> Path:
    return failures_folder(run) / f"{task}.json"


def record_outcome(home: Home, environment: Mapping[str, str], error: ShardlineError | None) -> None:
    """Leave `error` for the task that `environment` names, or remove what there is where the task succeeded."""
    names = [environment.get(f"SHARDLINE_{name}_ID") for name in ("DAG", "RUN", "TASK")]
    dag_id, run_id, task = names
    if not (dag_id and run_id and task) or "OMPI_COMM_WORLD_RANK" in environment:
        return
    file = failure_file(RunDirectory(home.run(dag_id, run_id)), re.sub(r"[^A-Za-z0-9._-]", "_", task))
    try:
        if error is None:
            file.unlink(missing_ok=True)
        else:
            atomic.write_text(file, _document(task, error))
    except OSError as problem:  # what stopped the task may be what stops this too: a full disk
        print(f"{file}: {problem.strerror}: the page of the run will not show this", file=sys.stderr, flush=True)


def _document(task: str, error: ShardlineError) -> str:
    document = {"task": task, "error": type(error).__name__, "message": str(error), "time": time.time()}
    return json.dumps(document, indent=1) + "\n"
