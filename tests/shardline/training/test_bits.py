"""A run that goes on from a shard set ends with the bits of one that was never interrupted, whatever the optimizer."""

import pytest

from shardline.run.directory import Home
from shardline.training.starting import start
from tests.shardline.training.in_process import assert_same_values, new_context, save, take_step, values


@pytest.mark.parametrize(
    "parameters",
    [
        {"optimizer": "SGD", "learning_rate": 0.05},
        {"optimizer": "Momentum", "learning_rate": 0.01, "momentum": 0.8, "checkpoint_format": "safetensors"},
        {"optimizer": "Adam"},
        {"optimizer": "AdamW", "warmup_steps": 3, "schedule": "cosine", "clip_norm": 0.5, "weight_decay": 0.1},
    ],
    ids=lambda parameters: parameters["optimizer"],
)
def test_steps_after_resuming_are_those_that_would_have_been(tmp_path, parameters):
    uninterrupted = new_context(tmp_path, **parameters)
    for step in range(2):
        take_step(uninterrupted, step)
    save(uninterrupted, 2)
    expected = [take_step(uninterrupted, step) for step in range(2, 5)]
    resumed = new_context(tmp_path, seed=7, **parameters)
    assert start(resumed, Home(tmp_path), last=9).step == 2
    assert [take_step(resumed, step) for step in range(2, 5)] == expected
    assert_same_values(resumed, values(uninterrupted))
    save(resumed, 5)
    resumed_again = new_context(tmp_path, seed=7, **parameters)
    assert start(resumed_again, Home(tmp_path), last=9).step == 5
    assert_same_values(resumed_again, values(uninterrupted))
