"""The shard map says what the strategy and the slices say."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.run_page.synthetic_run import SHAPE, Size, write_run, write_shard_set
from shardline.base.errors import CheckpointError, LayoutError, RunDirectoryError
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import Strategy, write_strategy
from shardline.page.results import read_merge
from shardline.page.shard_map import read_shard_map, strategies_to_show

FIXTURES = Path(__file__).parents[2] / "fixtures" / "strategy"
STRATEGY = "src_strategy.ckpt"


def parameter(found, name):
    one = next(row for row in found["parameters"] if row["name"] == name)
    return one, found["layouts"][one["layout"]]


def test_there_is_none_before_training_wrote_its_strategy(files):
    assert read_shard_map(files, strategies_to_show(files)) is None


def test_slices_and_sizes_of_a_shard_set(run, files):
    write_shard_set(run, Size(steps=40, parameters=5))
    found = read_shard_map(files, strategies_to_show(files))
    assert (found["step"], found["world_size"], found["stages"]) == (40, 8, 1)
    column, layout = parameter(found, "block0.weight")
    assert (column["shape"], column["slice_shape"], column["bytes"]) == (list(SHAPE), [64, 16], 64 * 32 * 4)
    assert (layout["shards"], layout["replicas"]) == ([1, 2], 4)
    assert layout["slices"] == [[0, 0], [0, 0], [0, 1], [0, 1]] * 2
    _, optimizer = parameter(found, "block2.weight")
    assert (optimizer["shards"], optimizer["optimizer_parts"], optimizer["replicas"]) == ([2, 4], 2, 1)


def test_weights_states_and_the_rest_are_told_apart(run, files):
    write_shard_set(run, Size(steps=40, parameters=1))
    kinds = {row["name"]: row["kind"] for row in read_shard_map(files, strategies_to_show(files))["parameters"]}
    assert kinds == {
        "block0.weight": "weight",
        "moment1.block0.weight": "state",
        "moment2.block0.weight": "state",
        "global_step": "other",
    }


def test_a_way_of_cutting_is_described_once(run, files):
    write_shard_set(run, Size(steps=40, parameters=200))
    found = read_shard_map(files, strategies_to_show(files))
    assert len(found["parameters"]) == 601
    assert len(found["layouts"]) == 6  # five of the parameters', and the scalar's


def test_slices_saved_under_another_strategy_give_no_sizes(run, files):
    write_shard_set(run, Size(steps=40, parameters=1))
    layouts = {"block0.weight": Layout((4,), ((0,), ()))}
    write_strategy(Strategy(stage=0, operators={}, layouts=layouts), run.path / STRATEGY)
    found = read_shard_map(files, strategies_to_show(files))
    assert (found["step"], found["world_size"]) == (None, 4)
    assert found["parameters"][0]["bytes"] is None


@pytest.mark.parametrize(
    "name", ["tutorial_sgd.ckpt", "tutorial_adam_optimizer_sharded.ckpt", "tensor_parallel_sgd.json"]
)
def test_strategies_that_mindspore_wrote(run, files, name):
    shutil.copy(FIXTURES / name, run.path / name)
    found = read_shard_map(files, [run.path / name])
    assert found["step"] is None
    assert found["world_size"] == 8
    assert all(len(layout["slices"]) == 8 for layout in found["layouts"])


def test_pipeline_stages_each_have_their_parameters(run, files):
    layouts = {"0-first.weight": Layout((4,), ((0,), ())), "1-last.weight": Layout((4,), ((), ()))}
    write_strategy(Strategy(stage=0, operators={}, layouts=layouts), run.path / STRATEGY)
    found = read_shard_map(files, strategies_to_show(files))
    assert (found["stages"], found["ranks_per_stage"], found["world_size"]) == (2, 4, 8)
    assert {row["name"]: row["stage"] for row in found["parameters"]} == {"first.weight": 0, "last.weight": 1}


def test_a_damaged_strategy_is_explained(run, files):
    (run.path / STRATEGY).write_bytes(b"\xff\xff\xff")
    with pytest.raises(CheckpointError, match="strategy"):
        read_shard_map(files, strategies_to_show(files))


def test_a_strategy_of_very_many_ranks_is_not_listed(run, files):
    layouts = {"wide.weight": Layout((2**16,), ((0,), ()))}
    write_strategy(Strategy(stage=0, operators={}, layouts=layouts), run.path / STRATEGY)
    with pytest.raises(LayoutError, match="at most 4096 are shown"):
        read_shard_map(files, strategies_to_show(files))


@pytest.mark.parametrize("record", [{}, {"inputs": []}, {"inputs": {"files": [{}]}}, {"inputs": 1, "tensors": 2}])
def test_a_damaged_record_of_a_merge_is_explained(run, files, record):
    run.merged.mkdir()
    run.merge_file.write_text(json.dumps(record))
    with pytest.raises(RunDirectoryError, match=r"merge\.json: expected the record of a merge"):
        read_merge(files)


def test_the_merge_counts_what_it_read(tmp_path, run):
    from shardline.page.containment import Contained

    whole = write_run(run.path / "inner", Size(steps=40, parameters=2, log_lines=1))
    found = read_merge(Contained.below(whole.path, tmp_path))
    assert [one["step"] for one in found["shard_sets"]] == [40]
    inputs = found["record"]["inputs"]
    assert (inputs["files"], inputs["bytes"]) == (8, found["shard_sets"][0]["bytes"])
    assert all(tensor["slices_compared"] == 8 for tensor in found["record"]["tensors"])
