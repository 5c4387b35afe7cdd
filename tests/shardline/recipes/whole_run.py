"""A run of all tasks, started as the DAG starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shardline.run.directory import RunDirectory
from shardline.run.environment import PROJECT

TASKS = (["tasks.launch", "tasks.train"], ["tasks.merge"], ["tasks.launch", "tasks.validate"], ["tasks.promote"])


def finished_run(home: Path, **parameters: Any) -> RunDirectory:
    """The directory, below `home`, of a run that was promoted."""
    run = RunDirectory(home / "run")
    for command in (["tasks.prepare_dataset", "--parameters", json.dumps(parameters)], *TASKS):
        finished = subprocess.run(
            [sys.executable, "-m", *command, "--run-directory", str(run.path)],
            cwd=PROJECT,
            env=os.environ | {"SHARDLINE_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
    return run
