"""A program that leaves MindFormers' folders, of either generation, from its description to a promoted version."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from shardline.checkpoint.shards.shard_set import CHECKPOINT2, RANK_FILES, ShardSet

FILES = {"mindformers_shaped.toml": RANK_FILES, "checkpoint2.toml": CHECKPOINT2}


@pytest.mark.parametrize("file", FILES)
def test_slices_become_a_promoted_version(example, file):
    described = example(file)
    described.prepare()
    trained = described.train()
    assert trained.result["step"] == 60
    assert "adopted shard set 60" in trained.stdout + trained.stderr

    checkpoints = described.run.checkpoints
    assert {ShardSet.read(ShardSet.path(checkpoints, step)).files for step in (30, 60)} == {FILES[file]}
    promoted = described.merge_to_promote()
    assert promoted["squared_error"] < 0.1
    steps = [json.loads(line)["step"] for line in described.run.metrics_file.read_text().splitlines()]
    assert steps == list(range(1, 61))

    merged = load_file(described.run.merged / "model.safetensors")
    own = described.run.path / "output" / "checkpoint"
    for rank in range(2):
        name = {
            RANK_FILES: f"rank_{rank}/linear_regression_rank_{rank}-15_4.safetensors",
            CHECKPOINT2: f"iteration_00000060/linear_regression-model-{rank:07d}-0000002.safetensors",
        }[FILES[file]]
        np.testing.assert_array_equal(
            merged["linear.weight"][:, rank * 4 : rank * 4 + 4], load_file(own / name)["linear.weight"]
        )


@pytest.mark.parametrize("file", FILES)
def test_a_longer_training_goes_on_from_the_adopted_set(example, file):
    described = example(file)
    described.prepare(steps=30)
    described.train()
    described.prepare(steps=40)
    trained = described.train()
    assert trained.result["step"] == 40
    assert "goes on from shard set 30" in trained.stdout + trained.stderr
    steps = [json.loads(line)["step"] for line in described.run.metrics_file.read_text().splitlines()]
    assert steps == list(range(1, 41))
