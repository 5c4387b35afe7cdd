"""Strategies that do not belong to the slices."""

import os

import numpy as np
import pytest

from shardline.base.errors import CheckpointError, ConfigError, LayoutError, MissingShard, ReplicaMismatch
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.sharding import LAYOUTS, save_manifest, save_shards, save_strategy, tensors


def test_an_altered_map_is_refused_by_the_values(case):
    save_strategy(case.strategy, {**LAYOUTS, "layer3.weight": Layout((2, 2, 2), ((2,), ()))})
    case.refused((ReplicaMismatch, LayoutError), "layer3.weight")


def test_an_altered_map_is_refused_by_the_manifest(case):
    save_manifest(case.shards, case.strategy)
    save_strategy(case.strategy, {**LAYOUTS, "layer3.weight": Layout((2, 2, 2), ((0,), ()))})
    case.refused(LayoutError, "give the strategy file of that run")


def test_altered_optimizer_sharding_is_refused(case):
    altered = Layout((2, 2, 2), ((1,), ()), optimizer_shard_step=1, optimizer_shard_size=2)
    save_strategy(case.strategy, {**LAYOUTS, "layer3.weight": altered})
    case.refused((ReplicaMismatch, LayoutError), "layer3.weight")


def test_the_shape_in_a_json_strategy_is_compared(case):
    case.strategy = save_strategy(
        case.path / "strategy.json", {**LAYOUTS, "layer3.weight": Layout((2, 2, 2), ((1,), ()), tensor_shape=(4, 5))}
    )
    case.refused(LayoutError, r"parameter layer3.weight: .*make \[8, 5\], but the strategy file says \[4, 5\]")


def test_an_unknown_parameter_that_differs_is_refused(case):
    case.rewrite(2, learning_rate=np.array(0.25, dtype=np.float32))
    case.refused(ReplicaMismatch, r"parameter learning_rate.*rank 2")


def test_a_sliced_state_that_the_strategy_does_not_know_is_refused(case):
    whole = {**tensors(), "moment1.layer1.weight": np.zeros((12, 8), np.float32)}
    save_shards(case.shards, whole)
    save_strategy(case.strategy, {name: LAYOUTS[name] for name in LAYOUTS if not name.startswith("moment1")})
    case.refused(LayoutError, r"moment1.layer1.weight: .*merge the weights alone")
    merged = read_checkpoint(case.merge(selection=Selection(weights_only=True)).output)
    assert list(merged) == ["layer1.weight", "layer1.bias", "layer3.weight"]


def test_a_parameter_missing_in_all_ranks_is_refused(case):
    for rank in range(8):
        case.rewrite(rank, **{"layer3.weight": None})
    case.refused(MissingShard, r"knows 1 parameter that no file holds: layer3.weight; give the strategy of the run")


def test_a_strategy_for_four_ranks_on_eight_is_refused(case):
    save_strategy(case.strategy, {name: Layout((4,), ((),) * len(LAYOUTS[name].tensor_map)) for name in LAYOUTS})
    case.refused(LayoutError, "shards over 4 ranks, there are folders of 8")


def test_a_missing_later_stage_is_refused(case):
    stage = {"a": Layout((4,), ((0,),))}
    save_strategy(case.strategy, stage)
    case.refused(LayoutError, "give the strategy of the run that saved them, all of its stages")


def test_a_garbage_strategy_is_refused(case):
    case.strategy.write_bytes(os.urandom(64))
    case.refused(CheckpointError, "strategy.ckpt")


def test_no_strategy_at_all_is_refused(case):
    with pytest.raises(ConfigError, match="which strategy"):
        merge(MergeRequest(case.shards, (), case.output))


def test_a_selection_of_nothing_is_refused(case):
    case.refused(MissingShard, "none of the 6 tensors is selected", selection=Selection(include=("nothing*",)))
