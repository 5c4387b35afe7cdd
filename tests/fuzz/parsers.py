"""Every parser of files and documents that others write, with whole inputs to begin from, and how it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardline.base.digest import file_digest
from shardline.base.errors import MissingShard
from shardline.checkpoint.formats.checkpoint2 import read_common, read_metadata
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.formats.file_set import read_file_set
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.checkpoint2 import find_iteration, plan_checkpoint2
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.strategy_file import read_layouts, read_strategy
from shardline.run.identity import read_identity
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import TrainingConfig, config_of
from shardline.settings.training_file import read_training
from shardline.store.version import DESCRIPTION, read_version
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors
from tests.shardline.settings.test_training_file import WHOLE

Kind = RunConfig | MergeCheckpointConfig | HousekeepingConfig
FIXTURES = Path(__file__).parents[1] / "fixtures"


@dataclass(frozen=True)
class Parser:
    """What is read: inputs that are right, the name that they get in a folder, and what reads the file there.

    The folder is as `prepare` leaves it.
    """

    seeds: Callable[[Path], list[bytes]]
    name: str
    parse: Callable[[Path], object]


def _checkpoints(suffix: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        small = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int32(3), "empty": np.zeros((0, 2))}
        contents = []
        for number, (arrays, crc) in enumerate([(small, False), (tensors(), False), (small, suffix == "ckpt")]):
            file = folder / f"seed{number}.{suffix}"
            write_checkpoint(arrays, file, crc=crc)
            contents.append(file.read_bytes())
        return contents

    return seeds


def _read_all(file: Path) -> None:
    checkpoint = read_checkpoint(file)
    for name in checkpoint:
        checkpoint[name]


def _strategies(suffix: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        files = [*(FIXTURES / "strategy").glob(f"*.{suffix}"), save_strategy(folder / f"seed.{suffix}")]
        return sorted(file.read_bytes() for file in files)

    return seeds


def _read_strategy(file: Path) -> None:
    read_strategy(file)
    with suppress(MissingShard):  # of several stages, the others
        read_layouts([file])


def _manifests(folder: Path) -> list[bytes]:
    save_shards(folder, tensors())
    save_manifest(folder, save_strategy(folder / "strategy.ckpt"))
    return [(folder / "shard_set-20.json").read_bytes()]


def _read_manifest(file: Path) -> None:
    ShardSet.read(file).verify(file.parent)


def _records(folder: Path) -> list[bytes]:
    save_shards(folder / "slices", tensors())
    strategy = save_strategy(folder / "strategy.ckpt")
    merge(MergeRequest(folder / "slices", (strategy,), folder / "model.ckpt"))
    record = folder / "model.ckpt.merge.json"
    document = json.loads(record.read_bytes())
    return [record.read_bytes(), json.dumps({"format": 1, "replaced_by": document}).encode()]


def _read_record(file: Path) -> None:
    verify(file.with_name("model.ckpt"), workers=1)


def _indexes(folder: Path) -> list[bytes]:
    save_shards(folder / "slices", tensors())
    output = folder / "model.safetensors"
    strategy = save_strategy(folder / "strategy.ckpt")
    merge(MergeRequest(folder / "slices", (strategy,), output, max_file_size=300))
    return [(folder / "model.safetensors.index.json").read_bytes()]


def _versions(folder: Path) -> list[bytes]:
    (folder / "model.ckpt").write_bytes(b"weights")
    digest = file_digest(folder / "model.ckpt")
    fields = {"version": 1, "digest": digest, "metric": "accuracy", "accuracy": 0.9, "step": 20, "run": "runs/a/b"}
    return [json.dumps({**fields, "model": "model.ckpt", "files": {"model.ckpt": digest}}).encode()]


def _read_version(file: Path) -> None:
    read_version(file.parent).verify()


def _checkpoint2(name: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        source = FIXTURES / "checkpoint2" / "balanced" / "iteration_00000007"
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return [file.read_bytes() for file in sorted((FIXTURES / "checkpoint2").rglob(name))]

    return seeds


def _iteration(folder: Path) -> list[bytes]:
    """The metadata of an iteration whose files lie beside it."""
    _checkpoint2("metadata.json")(folder)
    return [(folder / "metadata.json").read_bytes()]


def _plan(file: Path) -> None:
    plan_checkpoint2(find_iteration(file.parent), Selection())


def _trainings(_: Path) -> list[bytes]:
    return [WHOLE.encode(), b'name = "a"\ncommand = ["true"]\nranks = 2\n[slices]\nfiles = "rank_*/*.ckpt"\n']


def _read_training(file: Path) -> None:
    config = config_of(read_training(file), file, "{}")
    TrainingConfig.from_json(config.to_json())


def _parameters(*documents: Kind) -> Parser:
    """Of the kind that `documents` are."""
    texts = [document.to_json().encode() for document in documents]
    kind = type(documents[0])
    return Parser(lambda _: texts, "trigger.json", lambda file: kind.from_json(file.read_bytes()))


PARSERS: Mapping[str, Parser] = {
    "ckpt": Parser(_checkpoints("ckpt"), "model.ckpt", _read_all),
    "safetensors": Parser(_checkpoints("safetensors"), "model.safetensors", _read_all),
    "strategy, protocol buffers": Parser(_strategies("ckpt"), "strategy.ckpt", _read_strategy),
    "strategy, JSON": Parser(_strategies("json"), "strategy.json", _read_strategy),
    "manifest": Parser(_manifests, "shard_set-20.json", _read_manifest),
    "record": Parser(_records, "model.ckpt.merge.json", _read_record),
    "index": Parser(_indexes, "model.safetensors.index.json", read_file_set),
    "version": Parser(_versions, DESCRIPTION, _read_version),
    "Checkpoint 2.0, metadata": Parser(_checkpoint2("metadata.json"), "metadata.json", read_metadata),
    "Checkpoint 2.0, an iteration": Parser(_iteration, "metadata.json", _plan),
    "Checkpoint 2.0, common": Parser(_checkpoint2("common.json"), "common.json", lambda file: read_common(file.parent)),
    "identity": Parser(
        lambda _: [b'{"dag_id": "a", "run_id": "b"}'], "run.json", lambda file: read_identity(file.parent)
    ),
    "training file": Parser(_trainings, "training.toml", _read_training),
    "parameters of a training": _parameters(RunConfig(), RunConfig(network="gpt", optimizer="SGD")),
    "parameters of a merge": _parameters(MergeCheckpointConfig(run="a/b"), MergeCheckpointConfig(shards="/a")),
    "parameters of housekeeping": _parameters(HousekeepingConfig()),
}
