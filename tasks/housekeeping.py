"""Free the disk space of old runs: their slices and, if asked, their merged files.

    python -m tasks.housekeeping plan [--parameters JSON]     says what would be freed, and frees nothing
    python -m tasks.housekeeping free [--parameters JSON]     frees it

What is kept: `shardline.store.retention`. SHARDLINE_FINISHED_RUNS_FILE, which has a JSON list of folders, narrows
`free` down: the DAG passes on what `plan` has announced, less the runs that Airflow has not finished.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.progress import human_size
from shardline.run.command_line import main
from shardline.run.directory import Home
from shardline.run.environment import document_from, home_from, parameters_from
from shardline.run.identity import read_identity
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.store.retention import OldRun, cleanup_of, free, narrowed

FINISHED_RUNS = "SHARDLINE_FINISHED_RUNS"


def _document(run: OldRun, home: Home) -> dict[str, Any]:
    """A run in a task's result: its folder below HOME/runs, what Airflow calls it, and its bytes."""
    identity = read_identity(run.path)
    return {
        "folder": str(run.path.relative_to(home.path / "runs")),
        "dag_id": identity.dag_id if identity else None,
        "run_id": identity.run_id if identity else None,
        "bytes": run.size,
    }


def _show(verb: str, runs: Iterable[OldRun], stays: Mapping[Path, str]) -> None:
    runs = list(runs)
    for run in runs:
        print(f"{human_size(run.size):>8}  {run.path}: {', '.join(target.name for target in run.targets)}")
    for path, reason in stays.items():
        print(f"   stays  {path}: {reason}")
    print(f"{verb} {human_size(sum(run.size for run in runs))} of {counted(len(runs), 'run')}", flush=True)


def _run(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    home = home_from(environment)
    config = HousekeepingConfig.from_json(parameters_from(arguments, environment))
    cleanup = cleanup_of(home, config)
    if (finished := document_from(environment, FINISHED_RUNS)) is not None:
        cleanup = narrowed(cleanup, home, json.loads(finished))
    if arguments.command == "plan" or config.dry_run:
        _show("Would free", cleanup.runs, cleanup.stays)
        return {"bytes": cleanup.size, "runs": [_document(run, home) for run in cleanup.runs]}
    freed, stays = free(cleanup)
    _show("Freed", freed, {**cleanup.stays, **stays})
    return {"bytes": sum(run.size for run in freed), "runs": [_document(run, home) for run in freed]}


def _command_line() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("command", choices=("plan", "free"))
    arguments.add_argument("--parameters", metavar="JSON", help="as in shardline/settings/housekeeping_config.py")
    given = arguments.parse_args()
    return main(lambda: _run(given, os.environ))


if __name__ == "__main__":
    sys.exit(_command_line())
