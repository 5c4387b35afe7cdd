"""What each task of a run reads and writes, as lineage tools know datasets: a place, a digest, and facts.

    prepare_dataset   (the user's files) → data
    train             data, what it began with → slices
    merge             slices → merged
    validate          merged, data →
    promote           merged → version
    upload            version → uploaded
    export            version → exported
    merge_checkpoint  slices → merged, or slices

A place is an absolute path, or the address of an object storage. Workers share SHARDLINE_HOME, at one path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from shardline.base.errors import ShardlineError
from shardline.base.json_object import object_in
from shardline.checkpoint.merging.record_file import Record, published_files, read_record
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory
from shardline.settings.declared_parameter import PathParameter
from shardline.settings.training_config import TrainingConfig


@dataclass(frozen=True)
class Dataset:
    """A dataset: `kind` as above, or `files` of the user's; `digest`, BLAKE3, of all of its content where it is known.

    Of slices it is their manifest's, which has the digests of all files; of several merged files, their index's.
    """

    kind: str
    place: str
    digest: str | None = None
    size: int | None = None
    """In bytes."""
    files: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Datasets:
    """What a task reads and what it writes."""

    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()


def datasets_of(task_id: str, run: RunDirectory, home: Home) -> Datasets:
    """What the run's task, as its DAG names it, read and wrote, as far as that is there; nothing of any other task.

    A `ShardlineError` names a file that is damaged.
    """
    found = _TASKS.get(task_id)
    return found(run, home) if found is not None and run.path.is_dir() else Datasets()


def _prepare(run: RunDirectory, _home: Home) -> Datasets:
    return Datasets(_of_the_user(run), _known(_data(run)))


def _train(run: RunDirectory, home: Home) -> Datasets:
    newest = next(reversed(ShardSet.steps(run.checkpoints)), None)
    own = _of_the_user(run) if not run.dataset_file.is_file() else ()
    return Datasets((*_known(_data(run), _began_with(run, home)), *own), _known(_slices(run.checkpoints, newest)))


def _merge(run: RunDirectory, _home: Home) -> Datasets:
    record = _record(run)
    return Datasets(_known(_merged_slices(run.checkpoints, record)), _known(_merged(run, record)))


def _validate(run: RunDirectory, _home: Home) -> Datasets:
    return Datasets(_known(_merged(run, _record(run)), _data(run)))


def _promote(run: RunDirectory, home: Home) -> Datasets:
    merged = _merged(run, _record(run))
    return Datasets(_known(merged), _known(_version(run, home, merged)))


def _upload(run: RunDirectory, home: Home) -> Datasets:
    version = _version(run, home, _merged(run, _record(run)))
    to = (_document(run.config_file) or {}).get("upload_to")
    if version is None or not to:
        return Datasets(_known(version))
    scheme, _, rest = str(to).partition("://")
    rest = rest.partition("@")[2] or rest  # without the connection's name
    place = f"{scheme}://{rest.rstrip('/')}/{version.facts['model']}/{version.facts['version']}"
    return Datasets((version,), (Dataset("uploaded", place, version.digest, facts=version.facts),))


def _export(run: RunDirectory, home: Home) -> Datasets:
    version = _version(run, home, _merged(run, _record(run)))
    if version is None:
        return Datasets()
    folder = home.export(str(version.facts["model"]), int(version.facts["version"]))
    outputs = (Dataset("exported", str(folder), facts=version.facts),) if folder.is_dir() else ()
    return Datasets((version,), outputs)


def _merge_checkpoint(run: RunDirectory, home: Home) -> Datasets:
    config, record = _document(run.config_file) or {}, _record(run)
    resharded = _document(run.resharded / "reshard.json")
    if config.get("target_strategy"):
        inputs = {} if resharded is None else resharded.get("inputs", {})
        step = next(iter(ShardSet.steps(run.resharded)), None)
        outputs = _known(_slices(run.resharded, step, resharded)) if resharded is not None else ()
        return Datasets(_known(_slices_given(config, home, inputs)), outputs)
    inputs = {} if record is None else record["inputs"]
    return Datasets(_known(_slices_given(config, home, inputs)), _known(_merged(run, record)))


_TASKS: Mapping[str, Callable[[RunDirectory, Home], Datasets]] = {
    "prepare_dataset": _prepare,
    "train": _train,
    "merge": _merge,
    "merge.commit": _merge,
    "validate": _validate,
    "promote": _promote,
    "upload": _upload,
    "export": _export,
    "merge_checkpoint": _merge_checkpoint,
}


def _known(*found: Dataset | None) -> tuple[Dataset, ...]:
    return tuple(dataset for dataset in found if dataset is not None)


def _of_the_user(run: RunDirectory) -> tuple[Dataset, ...]:
    """The files and folders that somebody chose as a training's data: nobody has taken their digests."""
    try:
        config = run.read_any_config()
    except ShardlineError:
        return ()
    if isinstance(config, TrainingConfig):
        declared = config.training.parameters
        given = [str(config.values[name]) for name, each in declared.items() if isinstance(each, PathParameter)]
    else:
        given = [path for path in (config.data_directory, config.text_file) if path is not None]
    return tuple(Dataset("files", path) for path in given if Path(path).is_absolute())


def _data(run: RunDirectory) -> Dataset | None:
    found = _document(run.dataset_file)
    if found is None:
        return None
    return Dataset("data", str(found["directory"]), str(found["digest"]), facts={"source": found.get("source")})


def _began_with(run: RunDirectory, home: Home) -> Dataset | None:
    """The version, the file or the other run's slices that `start.json` names."""
    start = _document(run.start_file)
    if start is None:
        return None
    if "version" in start:
        facts = {"model": start["model"], "version": start["version"]}
        place = home.models / str(start["model"]) / "versions" / str(start["version"])
        return Dataset("version", str(place), str(start["digest"]), facts=facts)
    if "run" in start:
        return _slices(RunDirectory(Path(start["run"])).checkpoints, int(start["step"]))
    return Dataset("files", str(start["file"]))


def _slices(folder: Path, step: int | None, resharded: Mapping[str, Any] | None = None) -> Dataset | None:
    """The slices of a shard set; without a manifest, what a record of resharding says of them."""
    manifest = None if step is None else ShardSet.path(folder, step)
    if manifest is None or not manifest.is_file():
        return None if resharded is None else Dataset("slices", str(folder), files=len(resharded.get("files", ())))
    shard_set = ShardSet.read(manifest)
    facts = {
        "step": shard_set.step,
        "epoch": shard_set.epoch,
        "world_size": shard_set.world_size,
        "strategy": shard_set.strategy_digest,
    }
    digest = blake3(manifest.read_bytes()).hexdigest()
    size = sum(item.size for item in shard_set.slices)
    return Dataset("slices", str(folder), digest, size, len(shard_set.slices), facts)


def _merged_slices(folder: Path, record: Record | None) -> Dataset | None:
    """What was merged; before that, what would be."""
    if record is None:
        return _slices(folder, next(reversed(ShardSet.steps(folder)), None))
    inputs = record["inputs"]
    found = _slices(folder, int(inputs["step"])) if inputs.get("manifest") else None
    return found or Dataset("slices", str(folder), files=len(inputs.get("files", ())), facts={"step": inputs["step"]})


def _slices_given(config: Mapping[str, Any], home: Home, inputs: Mapping[str, Any]) -> Dataset | None:
    """What a merge on request read: another run's slices, or a folder's."""
    if config.get("shards"):
        folders = [Path(config["shards"])]
    else:
        runs = home.runs_named(str(config.get("run") or ""))
        folders = [folder for folder in (RunDirectory(path).checkpoints for path in runs) if folder.is_dir()]
    step = str(inputs.get("step", ""))
    for folder in folders[:1]:
        found = _slices(folder, int(step)) if step.isdecimal() else None
        return found or Dataset("slices", str(folder), files=len(inputs.get("files", ())) or None)
    return None


def _merged(run: RunDirectory, record: Record | None) -> Dataset | None:
    if record is None:
        return None
    output = published_files(record, run.merge_file)
    facts = {"step": record["inputs"]["step"], "strategies": list(record["inputs"].get("strategies", ()))}
    size = sum(file.size for file in output)
    return Dataset("merged", str(run.merged / output[0].name), output[0].digest, size, len(output), facts)


def _version(run: RunDirectory, home: Home, merged: Dataset | None) -> Dataset | None:
    """The version that the run's merged file became, not one that an earlier merge of the run did, or another run."""
    found = _document(run.promotion_file)
    if found is None or merged is None or not found.get("new") or found.get("digest") != merged.digest:
        return None
    facts = {name: found[name] for name in ("model", "version", "metric")} | {"value": found.get(str(found["metric"]))}
    place = home.models / str(found["model"]) / "versions" / str(found["version"])
    return Dataset("version", str(place), merged.digest, merged.size, facts=facts)


def _record(run: RunDirectory) -> Record | None:
    return read_record(run.merge_file) if run.merge_file.is_file() else None


def _document(file: Path) -> dict[str, Any] | None:
    return object_in(file.read_bytes()) if file.is_file() else None
