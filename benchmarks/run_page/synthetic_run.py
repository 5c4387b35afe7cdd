"""A run directory as a training of any length would leave it, without the training: for measuring and testing its page.

Formats are written by the code that writes them in a run (strategy, slices, manifest, merge); metrics, logs and the
report are made up.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardline.base.digest import file_digest
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import Strategy, write_strategy
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig

SHAPE = (64, 32)
WORLD_SIZE = 8
LAYOUTS = (
    Layout((2, 2, 2), ((), (1,))),
    Layout((2, 2, 2), ((1,), ())),
    Layout((2, 4), ((), (0,)), optimizer_shard_step=4, optimizer_shard_size=2),
    Layout((8,), ((0,), ())),
    Layout((8,), ((), ())),
)
"""Column-wise, row-wise, with optimizer shards on top, over all ranks, and replicated."""


@dataclass(frozen=True)
class Size:
    """How long the run was and how many parameters its network has."""

    steps: int
    parameters: int = 10
    steps_per_epoch: int = 1000
    log_lines: int = 200


def write_run(folder: Path, size: Size, seed: int = 1, **parameters: Any) -> RunDirectory:
    """Fill `folder` with a whole run: trained, saved, merged, validated."""
    run = RunDirectory(folder)
    folder.mkdir(parents=True)
    epochs = math.ceil(size.steps / size.steps_per_epoch)
    run.write_config(RunConfig(world_size=WORLD_SIZE, epochs=epochs, **parameters))
    write_metrics(run, size, seed)
    write_ranks(run, size)
    write_shard_set(run, size)
    merge(
        MergeRequest(
            shards=run.checkpoints,
            strategies=(run.path / "src_strategy.ckpt",),
            output=run.merged / "model.ckpt",
            owns_folder=True,
        )
    )
    write_report(run)
    return run


def write_metrics(run: RunDirectory, size: Size, seed: int = 1) -> None:
    with run.metrics_file.open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in metric_records(size, seed))


def metric_records(size: Size, seed: int) -> Iterator[Mapping[str, Any]]:
    """A loss that falls with noise and spikes, a warm-up and a cosine, an epoch's throughput at its end."""
    chance = random.Random(seed)
    for step in range(1, size.steps + 1):
        epoch = 1 + (step - 1) // size.steps_per_epoch
        share = step / size.steps
        spike = chance.random() < 2 / size.steps
        yield {
            "step": step,
            "epoch": epoch,
            "loss": (0.05 + 2.3 * math.exp(-6 * share)) * math.exp(chance.gauss(0, 0.15)) + (3 if spike else 0),
            "learning_rate": 1e-3 * min(share * 20, 0.5 + 0.5 * math.cos(math.pi * share)),
            "gradient_norm": 1 + 4 * math.exp(-4 * share) * chance.random(),
            "samples_per_second": 800 + 40 * chance.random(),
        }
        if step % size.steps_per_epoch == 0:
            yield {"epoch": epoch, "samples_per_second": 812.5}


def write_ranks(run: RunDirectory, size: Size) -> None:
    """Every rank's records and log; all have finished."""
    for rank in range(WORLD_SIZE):
        folder = run.rank_log(rank).parent
        folder.mkdir(parents=True)
        lines = (f"epoch: 1 step: {line}, loss is {2.3 / (line + 1):.4f}\n" for line in range(size.log_lines))
        (folder / "stdout").write_text("".join(lines))
        started = {"rank": rank, "pid": 4000 + rank, "host": f"node{rank // 4}", "time": 1.8e9}
        status = {
            **{key: started[key] for key in ("rank", "pid", "host")},
            "step": size.steps,
            "steps_per_second": 24.8,
            "memory_bytes": 512_000_000 + rank * 1_000_000,
            "peak_memory_bytes": 640_000_000,
            "collectives_seconds": 12.5,
            "time": 1.8e9 + 60,
        }
        for name, document in (("started", started), ("status", status), ("finished", {"time": 1.8e9 + 60})):
            (folder / f"{name}.json").write_text(json.dumps(document))


def write_shard_set(run: RunDirectory, size: Size) -> None:
    """The strategy, every rank's slices of weights and Adam's states, and their manifest."""
    layouts = {}
    for index in range(size.parameters):
        for name in (f"block{index}.weight", f"moment1.block{index}.weight", f"moment2.block{index}.weight"):
            layouts[name] = LAYOUTS[index % len(LAYOUTS)]
    write_strategy(Strategy(stage=0, operators={}, layouts=layouts), run.path / "src_strategy.ckpt")
    whole = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    files = [_write_slices(run, rank, layouts, whole, size) for rank in range(WORLD_SIZE)]
    ShardSet(
        world_size=WORLD_SIZE,
        step=size.steps,
        epoch=math.ceil(size.steps / size.steps_per_epoch),
        strategy_digest=file_digest(run.path / "src_strategy.ckpt"),
        configuration_digest="0" * 64,
        integrated=False,
        slices=tuple(files),
    ).write(run.checkpoints)


def _write_slices(
    run: RunDirectory, rank: int, layouts: Mapping[str, Layout], whole: np.ndarray[Any, Any], size: Size
) -> SliceFile:
    path = f"rank_{rank}/checkpoint-1_{size.steps}.ckpt"
    file = run.checkpoints / path
    file.parent.mkdir(parents=True)
    tensors = {name: whole[layout.slice_of(rank, SHAPE)] for name, layout in layouts.items()}
    write_checkpoint(tensors | {"global_step": np.array(size.steps, dtype=np.int32)}, file)
    return SliceFile(rank, path, file.stat().st_size, file_digest(file))


def write_report(run: RunDirectory) -> None:
    """A validation of ten classes, mostly right."""
    run.validation.mkdir()
    matrix = [[47 if row == column else int((row * 3 + column) % 7 == 0) for column in range(10)] for row in range(10)]
    record = json.loads(run.merge_file.read_text())
    merged = {"file": "model.ckpt", "digest": record["output"][0]["digest"], "step": int(record["inputs"]["step"])}
    report = {
        "passed": True,
        "failures": [],
        "metric": "accuracy",
        "accuracy": 0.948,
        "min_accuracy": 0.9,
        "loss": 0.1852,
        "merged": merged,
        "sharded_logits": {"samples": 64, "relative_difference": 5.0e-07, "tolerance": 1e-05},
        "samples": 500,
        "classes": [
            {"label": label, "precision": 0.95, "recall": 0.94, "f1": 0.945, "support": 50} for label in range(10)
        ],
        "confusion_matrix": matrix,
    }
    run.report_file.write_text(json.dumps(report))
