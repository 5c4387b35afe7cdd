"""The language model goes on with one rank, from whole models that ranks with sharded optimizer states saved."""

import json
import subprocess
import sys

import pytest

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from tests.shardline.training.runs import (
    PROJECT,
    check_continuous,
    environment,
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
ON_4 = GPT | {"world_size": 4, "tensor_parallel": 2, "enable_parallel_optimizer": True, "integrated_save": True}


def prepared(home, name, parameters):
    run = RunDirectory(home / name)
    command = [sys.executable, "-m", "tasks.prepare_dataset", "--run-directory", str(run.path)]
    command += ["--parameters", json.dumps(parameters)]
    subprocess.run(command, cwd=PROJECT, env=environment(home), check=True, capture_output=True)
    return run


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    home = tmp_path_factory.mktemp("gpt_home")
    run = prepared(home, "whole_run", ON_1)
    train(run, home)
    return run


def test_a_language_model_goes_on_with_one_rank_as_if_it_had_never_been_interrupted(whole_run):
    home = whole_run.path.parent
    run = prepared(home, "elastic", ON_4)
    stop_after_the_first_shard_set(run, home)
    saved, last = ShardSet.steps(run.checkpoints)[-1], ShardSet.steps(whole_run.checkpoints)[-1]
    assert (saved, last) == (4, 12)
    held = [{name: array.tobytes() for name, array in rank.items()} for rank in slices(run, saved)]
    assert len(held) == 4
    assert all(rank == held[0] for rank in held), "every rank saves the whole model, optimizer states included"
    run.write_config(RunConfig(**ON_1))
    train(run, home)
    assert f"resumed from shard set {saved}, resharded: 4 ranks saved it, 1 goes on" in run.rank_log(0).read_text()
    check_continuous(run, whole_run, last)
