"""Whole runs that end early and go on: after a rank's SIGKILL, after SIGTERM, on other ranks, in other formats."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from shardline.checkpoint.formats.safetensors_file import index_safetensors
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory
from tests.shardline.training.runs import (
    LAST,
    check_continuous,
    kill_a_rank_after_the_first_shard_set,
    losses,
    slices,
    stop_after_the_first_shard_set,
    train,
    whole,
)

MOMENTUM_ON_4 = {"world_size": 4, "optimizer": "Momentum", "learning_rate": 0.01}


def steps_saved(run) -> list[int]:
    return ShardSet.steps(run.checkpoints)


def resumed_from(run) -> int:
    found: int = json.loads(run.train_file.read_text())["resumed_from"]
    return found


def test_a_killed_and_retried_run_ends_with_the_same_bits_and_losses(momentum, new_run, reconfigure, home):
    run = new_run("momentum_killed", **MOMENTUM_ON_4)
    kill_a_rank_after_the_first_shard_set(run, home)
    saved = steps_saved(run)[-1]
    assert saved < LAST, "it was killed too late to show anything"
    reconfigure(run, checkpoint_format="safetensors", remove_redundancy=True)
    _, output = train(run, home)
    assert f"resumed from shard set {resumed_from(run)}\n" in output
    assert resumed_from(run) >= saved
    assert losses(run) == losses(momentum[0])
    expected = whole(momentum[0], LAST)
    for name, array in whole(run, LAST).items():
        assert array.tobytes() == expected[name].tobytes(), name
    check_without_redundancy(run)


def check_without_redundancy(run):
    """Each slice of the last shard set was saved by one rank, whose file says so."""
    shard_set = ShardSet.read(ShardSet.path(run.checkpoints, LAST))
    assert all(index_safetensors(run.checkpoints / item.path).removes_redundancy for item in shard_set.slices)
    held = slices(run, LAST)
    assert sum("layer2.weight" in tensors for tensors in held) == 1, "it is replicated"
    assert sum("layer3.weight" in tensors for tensors in held) == 2, "it is cut in two"
    assert all("global_step" in tensors for tensors in held)


@dataclass
class Stage:
    """What one try of the run on 8, then 4, then 8 ranks left, as it was before the next."""

    run: RunDirectory
    saved: int
    losses: list[tuple[int, float]]
    logs: list[str]
    tensors: list[dict[str, np.ndarray]]


def stage_of(run, world_size: int) -> Stage:
    saved = ShardSet.steps(run.checkpoints)[-1]
    logs = [run.rank_log(rank).read_text() for rank in range(world_size)]
    return Stage(run, saved, losses(run), logs, slices(run, saved))


@pytest.fixture(scope="module")
def stopped(new_run, home):
    """On 8 ranks, stopped by SIGTERM after the first shard set."""
    run = new_run("elastic", save_checkpoint_steps=1)
    stop_after_the_first_shard_set(run, home)
    return stage_of(run, 8)


@pytest.fixture(scope="module")
def on_fewer(stopped, reconfigure, home):
    """Then on 4 ranks, which save whole models, ended by SIGKILL."""
    reconfigure(stopped.run, world_size=4, save_checkpoint_steps=2, integrated_save=True)
    kill_a_rank_after_the_first_shard_set(stopped.run, home)
    return stage_of(stopped.run, 4)


@pytest.fixture(scope="module")
def on_more(on_fewer, reconfigure, home):
    """Then on 8 ranks, to the end."""
    reconfigure(on_fewer.run, world_size=8, keep_checkpoint_max=1)
    train(on_fewer.run, home)
    return stage_of(on_fewer.run, 8)


def test_sigterm_saves_the_step_that_all_ranks_have_reached(stopped):
    assert stopped.saved < LAST, "it was stopped too late to show anything"
    assert stopped.losses[-1][0] == stopped.saved, "no step is lost"
    assert all(f"left after step {stopped.saved} of {LAST}" in log for log in stopped.logs)
    assert len(stopped.tensors) == 8


def test_training_goes_on_with_fewer_ranks(stopped, on_fewer, adam):
    assert f"resumed from shard set {stopped.saved}, resharded: 8 ranks saved it, 4 go on" in on_fewer.logs[0]
    assert stopped.saved < on_fewer.saved < LAST
    assert len(on_fewer.tensors) == 4
    expected = dict(losses(adam[0]))
    assert all(loss == pytest.approx(expected[step], rel=1e-4) for step, loss in on_fewer.losses)


def test_integrated_save_leaves_the_same_whole_model_with_every_rank(on_fewer):
    assert on_fewer.tensors[0]["layer1.weight"].shape == (784, 512)
    contents = [{name: array.tobytes() for name, array in held.items()} for held in on_fewer.tensors]
    assert all(content == contents[0] for content in contents)


def test_training_goes_on_with_more_ranks_as_if_it_had_never_been_interrupted(on_fewer, on_more, adam):
    assert f"resumed from shard set {on_fewer.saved}, resharded: 4 ranks saved it, 8 go on" in on_more.logs[0]
    check_continuous(on_more.run, adam[0], LAST)


def saved_files(run):
    """Everything among the checkpoints but what ranks tell each other."""
    files = (path for path in run.checkpoints.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if ".receipts" not in path.parts}


def test_a_finished_run_started_again_changes_nothing(momentum, home):
    run, first, _ = momentum
    before = saved_files(run)
    logits = np.load(run.reference_logits_file)["logits"]
    again, _ = train(run, home)
    assert again == first
    assert saved_files(run) == before
    np.testing.assert_array_equal(np.load(run.reference_logits_file)["logits"], logits)
