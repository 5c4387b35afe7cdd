"""Which old runs' slices and merged files may be freed, and freeing them.

Kept are each DAG's newest runs, the runs that `current` models came from, and every run in use: one whose directory a
task holds, that another task reads from, or that another run is yet to read from (`awaited`). Versions of the model
store, reports, logs and metrics are never touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import PromotionError, RunDirectoryError, ShardlineError
from shardline.run.described_run import slices_of
from shardline.run.directory import Home, RunDirectory
from shardline.run.readers import without_readers
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.store.awaited import awaited
from shardline.store.model_store import ModelStore, current

_FREED = ".freed."
_WEIGHTS = ("*.ckpt", "*.safetensors")


@dataclass(frozen=True)
class OldRun:
    """A run directory of which `targets` can be freed, `size` bytes in all."""

    path: Path
    targets: tuple[Path, ...]
    size: int


@dataclass(frozen=True)
class Cleanup:
    """What can be freed, oldest last; and what is older than the kept runs but stays, with the reason."""

    runs: tuple[OldRun, ...]
    stays: Mapping[Path, str]

    @property
    def size(self) -> int:
        return sum(run.size for run in self.runs)


def cleanup_of(home: Home, config: HousekeepingConfig) -> Cleanup:
    """What `config` allows to be freed now."""
    kept = _promoted(home) | awaited(home)
    runs, stays = [], {}
    for dag in sorted(home.path.glob("runs/*/")):
        with_targets = [run for folder in dag.iterdir() if folder.is_dir() for run in _old_run(folder, config)]
        with_targets.sort(key=_last_used, reverse=True)
        for run in with_targets[config.keep_runs :]:
            if reason := _reason_to_stay(run.path, kept):
                stays[run.path] = reason
            else:
                runs.append(run)
    return Cleanup(tuple(runs), stays)


def free(cleanup: Cleanup) -> tuple[list[OldRun], dict[Path, str]]:
    """Free what `cleanup` names; return what was freed, and what was not, since it came into use meanwhile."""
    stays = {run.path: reason for run in cleanup.runs if (reason := _free(run))}
    return [run for run in cleanup.runs if run.path not in stays], stays


def _free(run: OldRun) -> str:
    """Free `run`, or say why it must stay."""
    try:
        with _unused(run.path):
            home = Home(run.path.parents[2])
            if reason := awaited(home).get(run.path):  # by a run that said so since, before it could lock this one
                return reason
            for target in filter(Path.exists, run.targets):  # what an interruption left goes with its target
                _remove(target)
    except RunDirectoryError as error:
        return str(error)
    return ""


def _old_run(folder: Path, config: HousekeepingConfig) -> Iterator[OldRun]:
    """The run in `folder`, where it has anything to free."""
    slices = _slices(RunDirectory(folder))
    left = {place for target in slices for place in target.parent.glob(f"{_FREED}*")}
    targets = [*slices, *sorted(left | set(folder.glob(f"{_FREED}*"))), *folder.glob(f"merged/{_FREED}*")]
    if config.merged:
        targets += [folder / "resharded", *(file for glob in _WEIGHTS for file in folder.glob(f"merged/{glob}"))]
    present = tuple(target for target in targets if target.exists() and not target.is_symlink())
    if present:
        yield OldRun(folder, present, sum(map(_size, present)))


def _slices(run: RunDirectory) -> tuple[Path, ...]:
    """Where the run's slices lie; what a damaged run has beside others' files is left alone."""
    try:
        return slices_of(run)
    except ShardlineError:
        return ()


def _last_used(run: OldRun) -> float:
    """When a task last wrote something at the run's top; locks, which looking touches, don't count."""
    visible = (file for file in run.path.iterdir() if not file.name.startswith("."))
    return max((file.lstat().st_mtime for file in visible), default=0.0)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _promoted(home: Home) -> dict[Path, str]:
    """The run directories that `current` models came from, and why they stay."""
    kept: dict[Path, str] = {}
    for folder in home.models.glob("*/"):
        try:
            version = current(home, folder.name)
        except PromotionError as error:
            kept |= dict.fromkeys(_promoted_as(home, folder.name), f"it became a current version: {error}")
            continue
        if version is not None:
            kept[home.path / version.run] = f"the current version of {folder.name} came from it"
    return kept


def _promoted_as(home: Home, name: str) -> Iterator[Path]:
    """The runs that became the current version of the model `name`, by what promotion left in them."""
    number = ModelStore(home, name).current_number()
    for file in home.path.glob("runs/*/*/promotion.json"):
        try:
            result = json.loads(file.read_bytes())
            path = Path(result["path"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue  # of no version that anybody knows
        if path.parts[-3:] == (name, "versions", str(number)):
            yield file.parent


def _reason_to_stay(run: Path, kept: Mapping[Path, str]) -> str:
    if run in kept:
        return kept[run]
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
        atomic.sync_directory(hidden.parent)  # before anything goes: no power failure leaves half a set to be seen
    if hidden.is_dir():
        shutil.rmtree(hidden)
    else:
        hidden.unlink()


def narrowed(cleanup: Cleanup, home: Home, folders: Iterable[str]) -> Cleanup:
    """`cleanup` without the runs whose folders below HOME/runs are not among `folders`."""
    allowed = {home.path / "runs" / folder for folder in folders}
    return Cleanup(tuple(run for run in cleanup.runs if run.path in allowed), cleanup.stays)
