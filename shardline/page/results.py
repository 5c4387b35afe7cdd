"""What merging, validating and promoting left: their documents, as a page shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardline.base.errors import CheckpointError, RunDirectoryError
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.page.containment import Contained
from shardline.page.exports import read_export
from shardline.run.directory import Home, RunDirectory
from shardline.run.identity import RunIdentity, read_identity
from shardline.run.lineage import LINEAGE
from shardline.store.model_store import ModelStore
from shardline.store.version import Version


def read_merge(files: Contained) -> dict[str, Any]:
    """The complete shard sets that can be merged, newest first, and the record of the merge, `None` before it.

    `written` is when that was left, in seconds since 1970; `resharded` what became of slices for another strategy.
    """
    run = RunDirectory(files.root)
    checkpoints = files.path(run.checkpoints)
    steps = ShardSet.steps(checkpoints) if checkpoints.is_dir() else []
    read = [_shard_set(files.path(ShardSet.path(checkpoints, step))) for step in reversed(steps)]
    sets = [one for one in read if isinstance(one, ShardSet)]
    record = files.document(merge_file := run.merge_file)
    if record is not None and "replaced_by" in record:  # in the middle of its publication, which of two is true is open
        record = None
    return {
        "shard_sets": [
            {
                "step": one.step,
                "epoch": one.epoch,
                "world_size": one.world_size,
                "integrated": one.integrated,
                "bytes": sum(item.size for item in one.slices),
            }
            for one in sets
        ],
        "damaged": [str(one) for one in read if isinstance(one, CheckpointError)],
        "record": None if record is None else _brief(record, merge_file),
        "written": None if record is None else files.path(merge_file).stat().st_mtime,
        "resharded": _resharded(files),
    }


def _resharded(files: Contained) -> dict[str, Any] | None:
    """What the record of slices for another strategy says of them, in numbers; `None` where there are none."""
    folder = RunDirectory(files.root).resharded
    record = files.document(folder / "reshard.json")
    if record is None:
        return None
    try:
        written, tensors = record["files"], record["tensors"].values()
        return {
            "folder": str(folder),
            "step": record["inputs"]["step"],
            "format": record["format"],
            "world_size": record["world_size"],
            "files": len(written),
            "bytes": sum(int(one["size"]) for one in written),
            "tensors": len(tensors),
            "slices_compared": sum(int(one["slices_compared"]) for one in tensors),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{folder}: expected the record of a resharding ({error!r}); reshard again") from error


def _shard_set(manifest: Path) -> ShardSet | CheckpointError:
    """One that is damaged hides no other."""
    try:
        return ShardSet.read(manifest)
    except CheckpointError as error:
        return error


def _brief(record: dict[str, Any], file: Path) -> dict[str, Any]:
    """The record, with the inputs' files counted instead of listed, and tensors without their places."""
    shown = ("name", "type", "source_type", "shape", "digest", "slices_compared")
    try:
        inputs = dict(record["inputs"])
        read = inputs.pop("files")
        return record | {
            "inputs": inputs | {"files": len(read), "bytes": sum(int(one["size"]) for one in read)},
            "tensors": [{key: tensor.get(key) for key in shown} for tensor in record["tensors"]],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{file}: expected the record of a merge ({error!r}); merge again") from error


def read_validation(files: Contained) -> dict[str, Any]:
    """The report, `None` before validation, and the names of the plots beside it."""
    run = RunDirectory(files.root)
    return {"report": files.document(run.report_file), "plots": [plot.name for plot in plots(files)]}


def plots(files: Contained) -> list[Path]:
    """The plots that validation left."""
    folder = files.path(RunDirectory(files.root).validation)
    return sorted(folder.glob("*.png")) if folder.is_dir() else []


def read_versions(home: Home, model: str, run: RunDirectory, may_see: Callable[[str], bool]) -> dict[str, Any]:
    """All versions of `model`, newest first, with the run they are of, from what they were made, and what was exported
    of them, where `may_see` allows its DAG's folder.

    Raises `RunDirectoryError` where the model's folder or a version leads out of the store.
    """
    store = ModelStore(home, model)
    if store.path.parent != home.models or not store.path.is_dir():
        return {"model": model, "current": None, "versions": [], "damaged": []}
    files = Contained.below(store.path, home.path)
    for description in store.path.glob("versions/*/version.json"):
        files.path(description)
    return {
        "model": model,
        "current": store.current_number(),
        "versions": [_version(version, home, run, may_see, files) for version in reversed(store.versions())],
        "damaged": list(map(str, store.damaged())),
    }


def _identity(folder: Path) -> RunIdentity | None:
    """What Airflow calls the run of that folder, where it is there still, and says so."""
    try:
        return read_identity(folder)
    except (RunDirectoryError, OSError):
        return None


def _version(
    version: Version, home: Home, run: RunDirectory, may_see: Callable[[str], bool], files: Contained
) -> dict[str, Any]:
    folder, exported = Path(version.run), home.export(version.path.parents[1].name, version.version)
    dag_folder = folder.parts[1] if len(folder.parts) == 3 else ""
    described = {key: value for key, value in asdict(version).items() if key not in ("path", "files", "model")}
    identity = _identity(home.path / folder) if may_see(dag_folder) else None
    return described | {
        "run": version.run if may_see(dag_folder) else None,
        "identity": None if identity is None else asdict(identity),
        "of_this_run": home.path / folder == run.path,
        "lineage": files.document(version.path / LINEAGE) if may_see(dag_folder) else None,
        "export": read_export(files, exported, version) if may_see(dag_folder) else None,
    }
