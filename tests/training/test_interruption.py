"""Runs that end early, or are started again: what they go on from, and what they refuse."""

import json

import numpy as np

from tasks.checkpoint.checkpoint_file import read_checkpoint
from tasks.checkpoint.shard_set import ShardSet, file_digest
from tasks.config import RunConfig
from tasks.model_store import ModelStore
from tasks.networks.initial import uniform_slice
from tasks.run_directory import Home
from tasks.version_folder import Candidate
from tests.training.runs import (
    LAST,
    SMALL,
    STEPS_PER_EPOCH,
    assert_same_bits,
    fail,
    kill_a_rank_after_the_first_shard_set,
    losses,
    slices,
    train,
    whole,
)

MOMENTUM_ON_4 = {"world_size": 4, "optimizer": "Momentum", "learning_rate": 0.01}
SGD_ON_1 = {"world_size": 1, "optimizer": "SGD", "learning_rate": 0.05, "epochs": 12}


def check_interrupted(uninterrupted, run, home, last=LAST):
    """Kill `run` in the middle and retry it: it ends with the bits of `uninterrupted`."""
    kill_a_rank_after_the_first_shard_set(run, home)
    assert last not in ShardSet.steps(run.checkpoints), "it was killed too late to show anything"
    _, output = train(run, home)
    resumed_from = json.loads(run.train_file.read_text())["resumed_from"]
    assert resumed_from >= SMALL["save_checkpoint_steps"]
    assert f"resumed from shard set {resumed_from}" in output
    assert_same_bits(run, uninterrupted, last)
    assert losses(run) == losses(uninterrupted)


def test_adam_on_8_ranks_killed_and_retried_ends_with_the_same_bits(adam, new_run, home):
    check_interrupted(adam[0], new_run("adam_killed"), home)


def test_momentum_on_4_ranks_killed_and_retried_ends_with_the_same_bits(momentum, new_run, home):
    check_interrupted(momentum[0], new_run("momentum_killed", **MOMENTUM_ON_4), home)


def test_sgd_on_1_rank_killed_and_retried_ends_with_the_same_bits(new_run, home):
    uninterrupted = new_run("sgd", **SGD_ON_1)
    train(uninterrupted, home)
    check_interrupted(uninterrupted, new_run("sgd_killed", **SGD_ON_1), home, last=12 * STEPS_PER_EPOCH)


def test_integrated_save_leaves_the_whole_model_with_every_rank_and_resumes(momentum, new_run, home):
    run = new_run("integrated", **MOMENTUM_ON_4, epochs=1, integrated_save=True, checkpoint_format="safetensors")
    train(run, home)
    assert ShardSet.read(ShardSet.path(run.checkpoints, STEPS_PER_EPOCH)).integrated
    ranks = slices(run, STEPS_PER_EPOCH)
    assert ranks[0]["layer1.weight"].shape == (784, 512)
    contents = [{name: array.tobytes() for name, array in held.items()} for held in ranks]
    assert all(content == contents[0] for content in contents)
    run.write_config(RunConfig(**(SMALL | MOMENTUM_ON_4)))
    train(run, home)
    assert json.loads(run.train_file.read_text())["resumed_from"] == STEPS_PER_EPOCH
    assert_same_bits(run, momentum[0], LAST)


def test_a_finished_run_started_again_changes_nothing(momentum, home):
    run, first, _ = momentum
    before = {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()}
    logits = np.load(run.reference_logits_file)["logits"]
    again, _ = train(run, home)
    assert again == first
    assert {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()} == before
    np.testing.assert_array_equal(np.load(run.reference_logits_file)["logits"], logits)


def test_a_changed_configuration_is_refused_and_nothing_is_touched(new_run, home):
    run = new_run("changed", world_size=1, epochs=1)
    train(run, home)
    strategy = run.strategy_file(run.read_config()).read_bytes()
    run.write_config(RunConfig(**(SMALL | {"world_size": 1, "epochs": 1, "optimizer": "SGD"})))
    assert "was saved with other operator strategies or another optimizer" in fail(run, home)
    assert run.strategy_file(run.read_config()).read_bytes() == strategy


def test_starting_from_the_current_model_takes_its_weights(new_run, home):
    assert "has no version of mnist-mlp" in fail(new_run("nothing_yet", world_size=1, start_from="current"), home)
    run = new_run("first", world_size=1, epochs=1)
    train(run, home)
    file = run.checkpoints / ShardSet.read(ShardSet.path(run.checkpoints, STEPS_PER_EPOCH)).slices[0].path
    candidate = Candidate(
        "first", file, file_digest(file), metric="accuracy", value=0.9, step=STEPS_PER_EPOCH, documents={}
    )
    ModelStore(Home(home), "mnist-mlp").add(candidate)
    follower = new_run("second", world_size=4, start_from="current", learning_rate=1e-9, epochs=1)
    _, output = train(follower, home)
    assert "started from version 1 of mnist-mlp" in output
    promoted, found = read_checkpoint(file)["layer1.weight"], whole(follower, STEPS_PER_EPOCH)["layer1.weight"]
    np.testing.assert_allclose(found, promoted, atol=1e-6)
    scratch = uniform_slice("layer1.weight", (784, 512), (slice(0, 784), slice(0, 512)), fan_in=784, seed=1)
    assert np.abs(promoted - scratch).max() > 1e-3
