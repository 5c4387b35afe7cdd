"""Whole runs that end early and go on: after a rank's SIGKILL, after SIGTERM, on other ranks, in other formats."""

import json
import os
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from shardline.checkpoint.formats.safetensors_file import index_safetensors
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch.processes import LaunchProcesses
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


def steps_saved(run) -> list[int]:
    return ShardSet.steps(run.checkpoints)


def resumed_from(run) -> int:
    found: int = json.loads(run.train_file.read_text())["resumed_from"]
    return found


KILLED = 2


@dataclass
class Killed:
    """A run on 4 ranks that lost one after its first shard set, as the others left it."""

    run: RunDirectory
    copy: RunDirectory
    said: str


@pytest.fixture(scope="module")
def killed(new_run, home):
    run, copy = new_run("killed", save_checkpoint_steps=2), RunDirectory(home / "elastic")
    said = kill_a_rank_after_the_first_shard_set(run, home, KILLED)
    shutil.copytree(run.path, copy.path)
    return Killed(run, copy, said)


def test_a_killed_rank_fails_the_try_and_is_named(killed):
    message = killed.said.partition("LaunchError: ")[2]
    assert message.startswith(f"rank {KILLED} on {os.uname().nodename} was ended by signal 9 (SIGKILL).")
    assert f"The last lines of rank {KILLED}'s log, {killed.run.rank_log(KILLED)}:" in message
    assert steps_saved(killed.run) == [2]
    assert not LaunchProcesses(killed.run.path).alive()


def test_a_killed_and_retried_run_ends_with_the_same_bits_and_losses(uninterrupted, killed, reconfigure, home):
    run = killed.run
    reconfigure(run, checkpoint_format="safetensors", remove_redundancy=True)
    _, output = train(run, home)
    assert "resumed from shard set 2\n" in output
    assert resumed_from(run) == 2
    assert losses(run) == losses(uninterrupted.run)
    expected = whole(uninterrupted.run, LAST)
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
    """What one try of the run on 4, then 8, then 4 ranks left, as it was before the next."""

    run: RunDirectory
    saved: int
    losses: list[tuple[int, float]]
    logs: list[str]
    tensors: list[dict[str, np.ndarray]]


def stage_of(run, world_size: int) -> Stage:
    saved = steps_saved(run)[-1]
    logs = [run.rank_log(rank).read_text() for rank in range(world_size)]
    return Stage(run, saved, losses(run), logs, slices(run, saved))


@pytest.fixture(scope="module")
def on_more(killed, reconfigure, home):
    """After 4 ranks 8, which save whole models, told to stop by SIGTERM after their first shard set."""
    run = killed.copy
    reconfigure(run, world_size=8, save_checkpoint_steps=1, integrated_save=True)
    stop_after_the_first_shard_set(run, home)
    return stage_of(run, 8)


@pytest.fixture(scope="module")
def on_fewer(on_more, reconfigure, home):
    """Then on 4 ranks, to the end."""
    reconfigure(on_more.run, world_size=4, keep_checkpoint_max=1)
    train(on_more.run, home)
    return stage_of(on_more.run, 4)


def test_training_goes_on_with_more_ranks(on_more, uninterrupted):
    assert "resumed from shard set 2, resharded: 4 ranks saved it, 8 go on" in on_more.logs[0]
    assert len(on_more.tensors) == 8
    expected = dict(losses(uninterrupted.run))
    assert all(loss == pytest.approx(expected[step], rel=1e-4) for step, loss in on_more.losses)


def test_sigterm_saves_the_step_that_all_ranks_have_reached(on_more):
    assert on_more.saved == 4, "it was told after step 3, with which all ranks had begun to agree"
    assert on_more.losses[-1][0] == on_more.saved, "no step is lost"
    assert all(f"left after step {on_more.saved} of {LAST}" in log for log in on_more.logs)


def test_integrated_save_leaves_the_same_whole_model_with_every_rank(on_more):
    assert on_more.tensors[0]["layer1.weight"].shape == (784, 512)
    contents = [{name: array.tobytes() for name, array in held.items()} for held in on_more.tensors]
    assert all(content == contents[0] for content in contents)


def test_training_goes_on_with_fewer_ranks_as_if_it_had_never_been_interrupted(on_more, on_fewer, uninterrupted):
    assert f"resumed from shard set {on_more.saved}, resharded: 8 ranks saved it, 4 go on" in on_fewer.logs[0]
    check_continuous(on_fewer.run, uninterrupted.run, LAST)


def saved_files(run):
    """Everything among the checkpoints but what ranks tell each other."""
    files = (path for path in run.checkpoints.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if ".receipts" not in path.parts}


def test_a_finished_run_started_again_changes_nothing(uninterrupted, home):
    run, first = uninterrupted.run, uninterrupted.result
    before = saved_files(run)
    logits = np.load(run.reference_logits_file)["logits"]
    again, _ = train(run, home)
    assert again == first
    assert saved_files(run) == before
    np.testing.assert_array_equal(np.load(run.reference_logits_file)["logits"], logits)
