import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardline.base.errors import CheckpointError, CorruptShard, LayoutError, MissingShard, UnsupportedFormat
from shardline.base.protobuf_wire import encode_bytes, encode_number
from shardline.checkpoint.strategy import json_form, protobuf_form
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import (
    OperatorStrategy,
    Strategy,
    layouts_by_stage,
    read_layouts,
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
        (b'{"current_stage": -1, "parallel_layout_item": {}}', "at most 32 bits"),
        (b'{"slices": [], "world_size": 8}', "is the manifest of a shard set.*give the strategy file"),
        (b'{"weight_map": {}}', "is the index of a model"),
        (b'{"tensors": [], "output": []}', "is the record of a merge"),
        (b"{}", "found \\[\\]; give the strategy file"),
        (b"[1, 2]", "expected a JSON object"),
        (b'{"current_stage": 1, "parallel_layout_item": {"w\\ud800": {}}}', "lone surrogate"),
        (b"\xd8\x5e\x3a\x7f" + b"\0" * 60, "is an encrypted checkpoint"),
        (b"\xda\x5e\x3a\x7f" + b"\0" * 60, "is an encrypted checkpoint"),
        (bytes.fromhex("0a0c 0a01 77 1207 08021a0462b00000"), "is a checkpoint, no strategy file"),
        ((2).to_bytes(8, "little") + b"{}", "is a checkpoint, no strategy file"),
        (b"\x08\x80\x80\x80\x80\x80\x01", "beyond 32 bits"),
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


def test_a_byte_order_mark_is_no_part_of_json(tmp_path):
    content = (FIXTURES / "tensor_parallel_sgd.json").read_bytes()
    (tmp_path / "s.ckpt").write_bytes(b"\xef\xbb\xbf" + content)
    assert read_strategy(tmp_path / "s.ckpt") == read_strategy(FIXTURES / "tensor_parallel_sgd.json")


def encoded(layout: bytes, name: bytes = b"w", more: bytes = b"") -> bytes:
    return encode_number(1, 2) + encode_bytes(3, encode_bytes(1, name) + encode_bytes(2, layout)) + more


def numbers(*values: int) -> bytes:
    return b"".join(encode_number(1, value) for value in values)


PLAIN = encode_bytes(1, numbers(2)) + encode_bytes(2, numbers(0, -1)) + b"".join(encode_number(n, 0) for n in (5, 6, 7))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (encoded(PLAIN, more=encode_number(4, 1)), "ParallelStrategyMap has a field 4"),
        (encoded(PLAIN, more=encode_bytes(2, encode_bytes(1, b"a") + encode_bytes(3, b""))), "has a field 3"),
        (encoded(PLAIN + encode_number(8, 1)), "the layout of 'w' has a field 8"),
        (encoded(PLAIN + encode_bytes(5, b"")), "the layout of 'w' has a field 5"),
        (encoded(PLAIN + encode_bytes(3, encode_number(2, 1))), "a list of numbers has a field 2"),
    ],
)
def test_what_this_version_does_not_know_is_refused_by_name(content, problem, tmp_path):
    (tmp_path / "s.ckpt").write_bytes(content)
    with pytest.raises(UnsupportedFormat, match=problem):
        read_strategy(tmp_path / "s.ckpt")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (encoded(PLAIN + encode_number(6, 2**40)), "opt_weight_shard_step of 'w' is beyond 32 bits"),
        (encoded(PLAIN + encode_bytes(1, numbers(2))), "too many dev_matrix"),
        (encoded(PLAIN + encode_bytes(3, b"") * 2), "too many param_split_shape"),
        (encoded(PLAIN + encode_bytes(2, b"") * 40), "too many tensor_map"),
        (encoded(PLAIN + encode_bytes(3, numbers(1) * 140_000)), "a list of more than 131072 numbers"),
    ],
)
def test_what_no_strategy_can_hold_is_refused(content, problem, tmp_path):
    (tmp_path / "s.ckpt").write_bytes(content)
    with pytest.raises(CorruptShard, match=problem):
        read_strategy(tmp_path / "s.ckpt")


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ((), r"the file: found \['new'\]"),
        (("parallel_strategy_item", "Add_down.bias"), r"operator Add_down.bias: found \['new'\]"),
        (("parallel_layout_item", "up.weight"), r"parameter up.weight: found \['new'\]"),
    ],
)
def test_keys_that_this_version_does_not_know_are_refused_by_name(where, problem, tmp_path):
    document = json.loads((FIXTURES / "tensor_parallel_sgd.json").read_text())
    place = document
    for key in where:
        place = place[key]
    place["new"] = 1
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedFormat, match=problem):
        read_strategy(tmp_path / "s.json")


def test_operators_of_several_stages_need_names_that_say_so(tmp_path):
    operators = {name: OperatorStrategy(stage, ()) for stage, name in enumerate("ab")}
    write_strategy(Strategy(0, operators, {"w": Layout((2,), ())}), tmp_path / "s.ckpt")
    with pytest.raises(LayoutError, match=r"of pipeline stages \[0, 1\], but its parameters' names don't say"):
        read_strategy(tmp_path / "s.ckpt")


HOSTILE = {
    "a stage of a thousand million": {"stage": 10**9, "layouts": {"w": Layout((2,), ((0,),))}},
    "names of such stages": {"stage": 0, "layouts": {f"{10**8 + n}-w": Layout((2,), ()) for n in range(9)}},
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_many_missing_stages_take_no_memory(hostile, tmp_path):
    strategy = Strategy(hostile["stage"], {"Add": OperatorStrategy(hostile["stage"], ())}, hostile["layouts"])
    write_strategy(strategy, tmp_path / "s.ckpt")
    tracemalloc.start()
    try:
        with pytest.raises(MissingShard, match=r"\[0, 1, 2, 3, 4, 5, 6, 7\] and more, up to 10+"):
            read_layouts([tmp_path / "s.ckpt"])
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("matrix", [(2**24,), (2,) * 18, (1,) * 33, (2**31,) * 3])
@pytest.mark.parametrize("size", [0, 2, -1])
def test_a_device_matrix_that_no_cluster_has_is_refused_before_anything_is_made(matrix, size, tmp_path):
    layout = b"".join(
        (encode_bytes(1, numbers(*matrix)), encode_bytes(2, numbers(-1)), encode_number(5, 0), encode_number(6, 1))
    )
    (tmp_path / "s.ckpt").write_bytes(encoded(layout + encode_number(7, size)))
    tracemalloc.start()
    try:
        with pytest.raises(LayoutError, match=r"parameter w: device matrix .* more than (131072|32)"):
            read_strategy(tmp_path / "s.ckpt")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def folder_of_ranks(folder: Path, names: list[str]) -> Path:
    """As MindFormers leaves it: one file a rank."""
    folder.mkdir()
    for rank, name in enumerate(names):
        shutil.copy(FIXTURES / name, folder / f"ckpt_strategy_rank_{rank}.ckpt")
    (folder / ".hidden.ckpt").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    (folder / ".ipynb_checkpoints").mkdir()
    return folder


STAGES = [f"pipeline_adam_stage{stage}.ckpt" for stage in (0, 1)]


def test_a_folder_with_a_file_a_rank_is_its_stages(tmp_path):
    folder = folder_of_ranks(tmp_path / "strategy", [STAGES[0]] * 4 + [STAGES[1]] * 4)
    staged, digests = read_layouts([folder])
    expected, two = read_layouts([FIXTURES / name for name in STAGES])
    assert (staged, digests) == (expected, two)
    assert len(digests) == 2
    assert read_layouts(sorted(folder.glob("ckpt_*"))) == (staged, digests)


def test_a_rank_of_another_run_is_named(tmp_path):
    folder = folder_of_ranks(tmp_path / "strategy", ["tutorial_sgd.ckpt"] * 11)
    shutil.copy(FIXTURES / "tensor_parallel_adam.ckpt", folder / "ckpt_strategy_rank_9.ckpt")
    with pytest.raises(LayoutError, match=r"rank_9.ckpt and .*rank_0.ckpt are both of pipeline stage 0, and differ"):
        read_layouts([folder])


@pytest.mark.parametrize(
    ("inner", "problem"),
    [("rank_0", "found none; give the strategy file.* or the folder"), ("strategy", "is it in .*strategy")],
)
def test_a_folder_without_strategies_is_named(tmp_path, inner, problem):
    (tmp_path / inner).mkdir()
    with pytest.raises(MissingShard, match=problem):
        read_layouts([tmp_path])


fuzzed = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.binary(max_size=200), st.integers(0, 1165), st.integers(0, 255), st.sampled_from(["other", "flip", "insert"]))
@fuzzed
def test_no_bytes_raise_anything_else_than_our_errors(inserted, position, flipped, how):
    genuine = bytearray((FIXTURES / "tutorial_sgd.ckpt").read_bytes())
    if how == "flip":
        genuine[position] ^= flipped
    content = {"other": inserted, "flip": bytes(genuine)}.get(
        how, bytes(genuine[:position] + inserted + genuine[position:])
    )
    try:
        layouts_by_stage([(Path("s"), protobuf_form.decode(content, Path("s")))])
    except CheckpointError as error:
        assert len(str(error)) < 5000  # noqa: PT017 - a strategy or an error: both are right


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
@fuzzed
def test_no_json_raises_anything_else_than_our_errors(data):
    document = json.loads((FIXTURES / "tensor_parallel_sgd.json").read_text())
    place = data.draw(st.sampled_from([document, *document["parallel_layout_item"].values()]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    try:
        layouts_by_stage([(Path("s"), json_form.decode(json.dumps(document).encode(), Path("s")))])
    except CheckpointError as error:
        assert "s" in str(error)  # noqa: PT017 - a strategy or an error: both are right
