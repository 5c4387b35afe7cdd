"""The language model goes on with more ranks, which shard the optimizer's states, then with fewer, and started again
does nothing."""

import json
import subprocess
import sys

import numpy as np
import pytest

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from tests.shardline.training.runs import (
    PROJECT,
    WholeRun,
    check_continuous,
    environment,
    losses,
    saved_files,
    slices,
    stop_after_the_first_shard_set,
    train,
)

GPT = {
    "network": "gpt",
    "corpus_size": 10_000,
    "layers": 1,
    "hidden_size": 32,
    "sequence_length": 32,
    "batch_size": 48,
    "epochs": 2,
    "optimizer": "AdamW",
    "clip_norm": 1.0,
    "save_checkpoint_steps": 3,
    "keep_checkpoint_max": 2,
}
ON_1 = GPT | {"world_size": 1}
ON_2 = GPT | {"world_size": 2, "tensor_parallel": 1, "enable_parallel_optimizer": True, "integrated_save": True}
LAST = 12


def prepared(home, name, parameters):
    run = RunDirectory(home / name)
    command = [sys.executable, "-m", "tasks.prepare_dataset", "--run-directory", str(run.path)]
    command += ["--parameters", json.dumps(parameters)]
    subprocess.run(command, cwd=PROJECT, env=environment(home), check=True, capture_output=True)
    return run


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A whole run on 1 rank."""
    home = tmp_path_factory.mktemp("gpt_home")
    run = prepared(home, "whole_run", ON_1)
    result, output = train(run, home)
    return WholeRun(run, result, output, json.loads(run.train_file.read_text()))


@pytest.fixture(scope="module")
def on_more(whole_run):
    """After 1 rank 2, which save whole models; each is told to stop by SIGTERM after its first shard set."""
    home = whole_run.run.path.parent
    run = prepared(home, "elastic", ON_1)
    stop_after_the_first_shard_set(run, home)
    assert ShardSet.steps(run.checkpoints) == [3, 4], "told after step 3, with which it had begun to ask itself"
    run.write_config(RunConfig(**ON_2))
    stop_after_the_first_shard_set(run, home)
    return run


def test_sigterm_saves_the_step_that_all_ranks_have_reached(on_more):
    assert ShardSet.steps(on_more.checkpoints)[-1] == 7, "told after step 6, with which all ranks had begun to agree"
    assert losses(on_more)[-1][0] == 7, "no step is lost"
    assert all(f"left after step 7 of {LAST}" in on_more.rank_log(rank).read_text() for rank in range(2))


def test_training_goes_on_with_more_ranks(on_more, whole_run):
    log = on_more.rank_log(0).read_text()
    assert "resumed from shard set 4, resharded: 1 rank saved it, 2 go on" in log
    expected = dict(losses(whole_run.run))
    assert all(loss == pytest.approx(expected[step], rel=1e-4) for step, loss in losses(on_more))


def test_integrated_save_leaves_the_same_whole_model_with_every_rank(on_more):
    held = [{name: array.tobytes() for name, array in rank.items()} for rank in slices(on_more, 7)]
    assert len(held) == 2
    assert held[0] == held[1], "every rank saves the whole model, optimizer states included"


def test_training_goes_on_with_fewer_ranks_as_if_it_had_never_been_interrupted(on_more, whole_run):
    on_more.write_config(RunConfig(**ON_1))
    train(on_more, whole_run.run.path.parent)
    assert "resumed from shard set 7, resharded: 2 ranks saved it, 1 goes on" in on_more.rank_log(0).read_text()
    check_continuous(on_more, whole_run.run, LAST)


def test_a_finished_run_started_again_changes_nothing(whole_run):
    run = whole_run.run
    before, logits = saved_files(run), np.load(run.reference_logits_file)["logits"]
    again, _ = train(run, run.path.parent)
    assert again == whole_run.result
    assert saved_files(run) == before
    np.testing.assert_array_equal(np.load(run.reference_logits_file)["logits"], logits)
