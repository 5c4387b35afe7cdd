"""Whole runs that lose a rank, and go on: on the same ranks, in another format, to the same bits; and on one."""

import json
import os
import shutil
from dataclasses import dataclass

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


def test_training_goes_on_with_one_rank_as_if_it_had_never_been_interrupted(uninterrupted, killed, reconfigure, home):
    run = killed.copy
    reconfigure(run, world_size=1)
    train(run, home)
    assert "resumed from shard set 2, resharded: 4 ranks saved it, 1 goes on" in run.rank_log(0).read_text()
    check_continuous(run, uninterrupted.run, LAST)
