import json
from dataclasses import replace
from pathlib import Path

import pytest

from shardline.base.errors import CheckpointError, CorruptShard, LayoutError, MissingShard
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import (
    OperatorStrategy,
    Strategy,
    layouts_by_stage,
    read_strategy,
    write_strategy,
)

FIXTURES = Path(__file__).parents[3] / "fixtures" / "strategy"
GENUINE = sorted(path.name for path in FIXTURES.iterdir() if path.suffix in (".ckpt", ".json"))


@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_file_is_rewritten_byte_for_byte(name, tmp_path):
    copy = tmp_path / name
    write_strategy(read_strategy(FIXTURES / name), copy)
    assert copy.read_bytes() == (FIXTURES / name).read_bytes()


def test_the_tutorials_layouts_are_read():
    strategy = read_strategy(FIXTURES / "tutorial_sgd.ckpt")
    assert strategy.stage == 0
    assert strategy.operators["MatMul_layer1.weight"] == OperatorStrategy(0, ((2, 1), (1, 2)))
    assert strategy.layouts["layer1.weight"] == Layout((2, 2, 2), ((), (1,)))
    assert strategy.layouts["layer2.bias"] == Layout((8,), ((),))
    assert strategy.layouts["layer3.weight"] == Layout((2, 2, 2), ((1,), ()))


def test_optimizer_sharding_over_the_whole_group_is_read():
    layout = read_strategy(FIXTURES / "tutorial_adam_optimizer_sharded.ckpt").layouts["layer1.weight"]
    assert (layout.optimizer_shard_step, layout.optimizer_shard_size) == (1, -1)


def test_the_json_form_has_the_tensors_shape():
    assert read_strategy(FIXTURES / "tensor_parallel_sgd.json").layouts["up.weight"].tensor_shape == (784, 1024)


def test_stages_come_from_one_file_each():
    paths = [FIXTURES / f"pipeline_adam_stage{stage}.ckpt" for stage in (1, 0)]
    staged = layouts_by_stage([(path, read_strategy(path)) for path in paths])
    assert (len(staged.stages), staged.ranks_per_stage, staged.world_size) == (2, 4, 8)
    assert "up.weight" in staged.stages[0]
    assert "head.weight" in staged.stages[1]


def test_stages_come_from_one_file_with_merged_names():
    path = FIXTURES / "mindformers_8_npus.ckpt"
    staged = layouts_by_stage([(path, read_strategy(path))])
    assert (len(staged.stages), staged.world_size) == (2, 8)
    assert "adam_v.backbone.blocks.1.attention.dense2.weight" in staged.stages[1]


def test_a_merged_name_is_split_once():
    layouts = {"0-a-b": Layout((2,), ()), "1-a-b": Layout((2,), ())}
    staged = layouts_by_stage([(Path("x"), Strategy(0, {}, layouts))])
    assert [list(stage) for stage in staged.stages] == [["a-b"], ["a-b"]]


def test_a_missing_stage_is_named():
    path = FIXTURES / "pipeline_adam_stage1.ckpt"
    with pytest.raises(MissingShard, match=r"pipeline stages \[0\] have no strategy"):
        layouts_by_stage([(path, read_strategy(path))])


def test_two_different_files_of_one_stage_are_refused():
    paths = [FIXTURES / "tutorial_sgd.ckpt", FIXTURES / "tensor_parallel_adam.ckpt"]
    with pytest.raises(LayoutError, match="both of pipeline stage 0"):
        layouts_by_stage([(path, read_strategy(path)) for path in paths])


def test_layouts_of_different_numbers_of_ranks_are_refused():
    strategy = Strategy(0, {}, {"a": Layout((2,), ()), "b": Layout((4,), ())})
    with pytest.raises(LayoutError, match=r"2 for a .*; 4 for b"):
        layouts_by_stage([(Path("x"), strategy)])


@pytest.mark.parametrize("suffix", [".ckpt", ".json"])
@pytest.mark.parametrize("tensor_map", [((1, 0), ()), ((1, 0),), ((0,), (1,)), ((), ()), ((),), ()])
def test_every_kind_of_map_survives_both_forms(suffix, tensor_map, tmp_path):
    layout = Layout((2, 4), tensor_map, map_in_lists=any(len(axes) > 1 for axes in tensor_map))
    strategy = Strategy(3, {"Add_x": OperatorStrategy(3, ((2, 1), ()))}, {"x": layout}, current_stage=1)
    write_strategy(strategy, tmp_path / f"strategy{suffix}")
    assert read_strategy(tmp_path / f"strategy{suffix}") == strategy


def test_a_one_dimensional_tensor_on_two_axes_is_written_with_an_empty_second_map(tmp_path):
    write_strategy(Strategy(0, {}, {"x": Layout((2, 2), ((1, 0),))}), tmp_path / "s.ckpt")
    assert bytes.fromhex("1204 0801 0800 1200".replace(" ", "")) in (tmp_path / "s.ckpt").read_bytes()


def test_split_shapes_and_offsets_are_kept(tmp_path):
    layout = replace(Layout((2,), ((0,),)), field=1, param_split_shape=(3, 4), indices_offset=(0, 7))
    write_strategy(Strategy(0, {}, {"x": layout}), tmp_path / "s.ckpt")
    assert read_strategy(tmp_path / "s.ckpt").layouts["x"] == layout


@pytest.mark.parametrize("length", range(0, 1166, 7))
def test_a_truncated_file_is_refused_or_has_fewer_layouts(length, tmp_path):
    whole = (FIXTURES / "tutorial_sgd.ckpt").read_bytes()
    (tmp_path / "s.ckpt").write_bytes(whole[:length])
    try:
        assert len(read_strategy(tmp_path / "s.ckpt").layouts) < 18
    except CheckpointError as error:
        assert str(tmp_path / "s.ckpt") in str(error)  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"not a strategy", "damaged"),
        (b"\x08\x02\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "at most 0 more bytes"),
        (b"\x08" + b"\xff" * 11, "longer than 64 bits"),
        (b'{"current_stage": 2', "not JSON"),
        (b'{"current_stage": 2, "parallel_layout_item": []}', "no strategy file"),
        (b'{"current_stage": 2, "parallel_layout_item": {"a": {}, "a": {}}}', "appears twice"),
        (b"{" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_strategy_is_refused(content, problem, tmp_path):
    (tmp_path / "s.ckpt").write_bytes(content)
    with pytest.raises(CorruptShard, match=problem):
        read_strategy(tmp_path / "s.ckpt")


def test_an_altered_map_names_file_and_parameter(tmp_path):
    document = json.loads((FIXTURES / "tensor_parallel_sgd.json").read_text())
    document["parallel_layout_item"]["up.weight"]["tensor_map"] = [7, 0]
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(LayoutError, match=r"s\.json, parameter up\.weight: .*expected axes between 0 and 1"):
        read_strategy(tmp_path / "s.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingShard, match="there is no strategy file"):
        read_strategy(tmp_path / "s.ckpt")
