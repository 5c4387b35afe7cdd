"""A real training on 4 sharded ranks loses one of them, and goes on in the next try."""

import json
import os

import psutil
import pytest

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from tasks.prepare_dataset import prepare_dataset

from .conftest import wait_until

KILLED = 2
STEPS_PER_EPOCH = 14  # of the embedded digits, 320 at a time
TRAINING = {"world_size": 4, "batch_size": 320, "save_checkpoint_steps": 4, "keep_checkpoint_max": 1000}


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    """A run directory for a training that is killed long before its end, its data prepared."""
    directory = RunDirectory(tmp_path / "run")
    config = RunConfig(**TRAINING, epochs=1000)
    prepare_dataset(directory, Home(tmp_path / "home"), config, {})
    return directory


def test_a_killed_rank_fails_the_try_and_the_next_one_resumes(directory, start):
    launch = start(module="tasks.train")
    wait_until(
        lambda: launch.process.poll() is not None or 8 in ShardSet.steps(directory.checkpoints),
        "the shard set of step 8",
    )
    assert launch.process.poll() is None, launch.wait()
    psutil.Process(launch.pid_of_rank(KILLED)).kill()
    ended = launch.wait()
    assert ended.exit_code == 1
    message = ended.stderr.partition("LaunchError: ")[2]
    assert message.startswith(f"rank {KILLED} on {os.uname().nodename} was ended by signal 9 (SIGKILL).")
    assert f"The last lines of rank {KILLED}'s log, {directory.rank_log(KILLED)}:" in message
    assert not launch.alive()

    newest = ShardSet.steps(directory.checkpoints)[-1]
    epochs = newest // STEPS_PER_EPOCH + 1
    directory.write_config(RunConfig(**TRAINING, epochs=epochs))
    retry = start(module="tasks.train").wait()
    assert retry.exit_code == 0, retry.stderr
    lines = retry.stdout.splitlines()
    assert f"resumed from shard set {newest}" in lines
    assert json.loads(lines[-1])["step"] == epochs * STEPS_PER_EPOCH
    final = ShardSet.newest(directory.checkpoints)
    assert (final.step, final.world_size) == (epochs * STEPS_PER_EPOCH, 4)
    final.verify(directory.checkpoints)
