"""Whole runs of the task train: started as the DAG starts them, interrupted for real, and read back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shardline.base.exit_codes import FAILED, STOPPED
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import replicated
from shardline.checkpoint.strategy.strategy_file import read_strategy
from shardline.run.directory import RunDirectory
from tests.patience import PATIENCE_S

PROJECT = Path(__file__).parents[3]
SMALL = {"world_size": 4, "batch_size": 640, "epochs": 2, "save_checkpoint_steps": 4, "keep_checkpoint_max": 2}
LAST = 14


class WholeRun(NamedTuple):
    """A run that ended by itself: its directory, result, output, and what `train.json` said then."""

    run: RunDirectory
    result: dict[str, Any]
    output: str
    record: dict[str, Any]


def environment(home):
    return os.environ | {"SHARDLINE_HOME": str(home)}


def start(run, home, module="tasks.train"):
    command = [sys.executable, "-m", "tasks.launch", module, "--run-directory", str(run.path)]
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def train(run, home):
    """Train to the end; the result, and all that was printed."""
    process = start(run, home)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output + errors
    return json.loads(output.splitlines()[-1]), output


def kill_a_rank_after_the_first_shard_set(run, home, rank):
    """Start training, and end a rank by SIGKILL when all stand still after their first shard set; what was said."""
    process = start_and_wait_for_a_shard_set(run, home)
    started = json.loads((run.rank_log(rank).parent / "started.json").read_bytes())
    os.kill(started["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == FAILED
    return errors


def stop_after_the_first_shard_set(run, home):
    """Start training, and tell it to stop, as Airflow does, when all stand still after their first shard set."""
    process = start_and_wait_for_a_shard_set(run, home)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == STOPPED, output + errors


def start_and_wait_for_a_shard_set(run, home):
    """Start training; returns when it has saved a shard set that was not there before, and stands still."""
    before = ShardSet.steps(run.checkpoints)
    process = start(run, home, "tests.shardline.training.pausing")
    while process.poll() is None and ShardSet.steps(run.checkpoints) == before:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return process


def slices(run, step):
    """Every rank's tensors in the shard set of `step`, whose files are as its manifest says."""
    shard_set = ShardSet.read(ShardSet.path(run.checkpoints, step))
    shard_set.verify(run.checkpoints)
    return [dict(read_checkpoint(run.checkpoints / item.path)) for item in shard_set.slices]


def whole(run, step):
    """Every parameter and optimizer state of a shard set, assembled by the strategy file."""
    layouts = read_strategy(run.strategy_file(run.read_config())).layouts
    tensors, ranks = {}, slices(run, step)
    for rank, held in enumerate(ranks):
        for name, part in held.items():
            layout = layouts.get(name, replicated(len(ranks), part.ndim))
            shape = layout.full_shape(part.shape)
            tensors.setdefault(name, np.full(shape, np.nan, part.dtype))[layout.slice_of(rank, shape)] = part
    return tensors


def losses(run):
    records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if "step" in record]


def saved_files(run):
    """The bytes of everything among the checkpoints but what ranks tell each other."""
    files = (path for path in run.checkpoints.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if ".receipts" not in path.parts}


def check_continuous(run, uninterrupted, last):
    """The losses and the end at step `last`, optimizer states included, are those of a run never interrupted."""
    found, expected = losses(run), losses(uninterrupted)
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=1e-4)
    ends = whole(run, last), whole(uninterrupted, last)
    assert set(ends[0]) == set(ends[1])
    for name, array in ends[1].items():
        np.testing.assert_allclose(ends[0][name], array, rtol=1e-3, atol=1e-4, err_msg=name)
