"""Free the disk space of old runs: their slices and, if asked, their merged files.

    python -m tasks.housekeeping plan [--parameters JSON]     says what would be freed, and frees nothing
    python -m tasks.housekeeping free [--parameters JSON]     frees it

Kept are each DAG's newest runs, the runs that `current` models came from, and every run in use: one whose directory a
task holds, or another task reads from. Versions of the model store, reports, logs and metrics are never touched.
SHARDLINE_FINISHED_RUNS, a JSON list of folders, narrows `free` down: the DAG passes on what `plan` has announced, less
the runs that Airflow has not finished.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.checkpoint.progress import human_size
from tasks.command_line import home_from, main
from tasks.errors import RunDirectoryError
from tasks.housekeeping_config import HousekeepingConfig
from tasks.model_store import current
from tasks.readers import without_readers
from tasks.run_directory import Home, RunDirectory
from tasks.run_identity import read_identity

FINISHED_RUNS = "SHARDLINE_FINISHED_RUNS"
_FREED = ".freed."
_WEIGHTS = ("*.ckpt", "*.safetensors")


@dataclass(frozen=True)
class OldRun:
    """A run directory of which `targets` can be freed, `size` bytes in all."""

    path: Path
    targets: tuple[Path, ...]
    size: int


@dataclass(frozen=True)
class Plan:
    """What can be freed, oldest last; and what is older than the kept runs but stays, with the reason."""

    runs: tuple[OldRun, ...]
    stays: Mapping[Path, str]

    @property
    def size(self) -> int:
        return sum(run.size for run in self.runs)


def plan(home: Home, config: HousekeepingConfig) -> Plan:
    """What `config` allows to be freed now."""
    promoted = _promoted(home)
    runs, stays = [], {}
    for dag in sorted(home.path.glob("runs/*/")):
        with_targets = [run for folder in dag.iterdir() if folder.is_dir() for run in _old_run(folder, config)]
        with_targets.sort(key=_last_used, reverse=True)
        for run in with_targets[config.keep_runs :]:
            if reason := _reason_to_stay(run.path, promoted):
                stays[run.path] = reason
            else:
                runs.append(run)
    return Plan(tuple(runs), stays)


def free(plan: Plan) -> tuple[list[OldRun], dict[Path, str]]:
    """Free what `plan` names; return what was freed, and what was not, since it came into use meanwhile."""
    stays = {run.path: reason for run in plan.runs if (reason := _free(run))}
    return [run for run in plan.runs if run.path not in stays], stays


def _free(run: OldRun) -> str:
    """Free `run`, or say why it must stay."""
    try:
        with _unused(run.path):
            for target in run.targets:
                _remove(target)
    except RunDirectoryError as error:
        return str(error)
    return ""


def _old_run(folder: Path, config: HousekeepingConfig) -> Iterator[OldRun]:
    """The run in `folder`, where it has anything to free."""
    targets = [folder / "src_checkpoints", *folder.glob(f"{_FREED}*"), *folder.glob(f"merged/{_FREED}*")]
    if config.merged:
        targets += [folder / "resharded", *(file for glob in _WEIGHTS for file in folder.glob(f"merged/{glob}"))]
    found = tuple(target for target in targets if target.exists() and not target.is_symlink())
    if found:
        yield OldRun(folder, found, sum(map(_size, found)))


def _last_used(run: OldRun) -> float:
    """When a task last wrote something at the run's top; locks, which looking touches, don't count."""
    visible = (file for file in run.path.iterdir() if not file.name.startswith("."))
    return max((file.lstat().st_mtime for file in visible), default=0.0)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _promoted(home: Home) -> dict[Path, str]:
    """The run directories that `current` models came from, with their models' names."""
    versions = {folder.name: current(home, folder.name) for folder in home.models.glob("*/")}
    return {home.path / version.run: name for name, version in versions.items() if version is not None}


def _reason_to_stay(run: Path, promoted: Mapping[Path, str]) -> str:
    if run in promoted:
        return f"the current version of {promoted[run]} came from it"
    try:
        with _unused(run):
            return ""
    except RunDirectoryError as error:
        return str(error)


@contextmanager
def _unused(run: Path) -> Iterator[None]:
    with RunDirectory(run).lock(), without_readers(run):
        yield


def _remove(target: Path) -> None:
    """Remove a file or a folder, which disappears at once; what an interruption leaves of it is freed the next time."""
    hidden = target if target.name.startswith(_FREED) else target.with_name(_FREED + target.name)
    if hidden != target:
        if hidden.exists():
            _remove(hidden)
        target.rename(hidden)
    if hidden.is_dir():
        shutil.rmtree(hidden)
    else:
        hidden.unlink()


def _narrowed(found: Plan, home: Home, folders: Iterable[str]) -> Plan:
    allowed = {home.path / "runs" / folder for folder in folders}
    return Plan(tuple(run for run in found.runs if run.path in allowed), found.stays)


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
    print(f"{verb} {human_size(sum(run.size for run in runs))} of {len(runs)} runs", flush=True)


def _run(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    home = home_from(environment)
    document = arguments.parameters if arguments.parameters is not None else environment.get("SHARDLINE_PARAMETERS")
    config = HousekeepingConfig.from_json(document or "{}")
    found = plan(home, config)
    if FINISHED_RUNS in environment:
        found = _narrowed(found, home, json.loads(environment[FINISHED_RUNS]))
    if arguments.command == "plan" or config.dry_run:
        _show("Would free", found.runs, found.stays)
        return {"bytes": found.size, "runs": [_document(run, home) for run in found.runs]}
    freed, stays = free(found)
    _show("Freed", freed, {**found.stays, **stays})
    return {"bytes": sum(run.size for run in freed), "runs": [_document(run, home) for run in freed]}


def _command_line() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("command", choices=("plan", "free"))
    arguments.add_argument("--parameters", metavar="JSON", help="as in tasks/housekeeping_config.py")
    given = arguments.parse_args()
    return main(lambda: _run(given, os.environ))


if __name__ == "__main__":
    sys.exit(_command_line())
