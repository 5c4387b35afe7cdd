import json
import shutil
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shardline.base.errors import CheckpointError, CorruptShard, LayoutError, UnsupportedFormat
from shardline.checkpoint.formats.checkpoint2 import StoredTensor, read_common, read_metadata
from shardline.checkpoint.formats.checkpoint2_layout import RankedLayout
from shardline.checkpoint.formats.checkpoint2_storage import StoredSlice, key_of, kind_of, parse_key
from shardline.checkpoint.formats.checkpoint2_writing import Shard, encode_metadata
from shardline.checkpoint.formats.tensor_types import FLOAT32
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.mindformers import FIXTURES

FIRST = FIXTURES / "iteration_00000010" / "metadata.json"
BALANCED = FIXTURES / "balanced" / "iteration_00000007"


@pytest.fixture
def changed(tmp_path):
    """Writes the first fixture's metadata.json with a change, and returns its path."""

    def write(change):
        document = json.loads(FIRST.read_bytes())
        change(document)
        path = tmp_path / "metadata.json"
        path.write_text(json.dumps(document))
        return path

    return write


def test_what_mindformers_wrote_is_read():
    metadata = read_metadata(FIRST)
    tensor = metadata.tensors["w"]
    assert (tensor.type.name, tensor.shape, tensor.fragments, tensor.slice_shape) == ("Float32", (4, 6), (2, 1), (2, 6))
    assert (tensor.layout.layout.device_matrix, tensor.layout.layout.tensor_map) == ((2, 2), ((0,), ()))
    assert (tensor.layout.ranks, tensor.layout.aliases) == ((0, 1, 2, 3), ("dp", "tp"))
    assert metadata.slices == {
        "w": {
            0: (StoredSlice("ms-model-0000000-0000002.safetensors", 0, (0, 2)),),
            1: (StoredSlice("ms-model-0000001-0000002.safetensors", 1, (1, 3)),),
        }
    }


def test_slices_are_numbered_along_the_last_dimension_first():
    """[4, 6, 8] cut (2, 1, 2): not by offsets in elements, and not in the ranks' order."""
    tensor = read_metadata(BALANCED / "metadata.json").tensors["decoder.0.weight"]
    assert tensor.layout.numbers == (0, 2, 1, 3)
    assert tensor.layout.replica_ids == (0, 0, 0, 0)


def test_an_entry_of_the_tensor_map_may_be_a_list_of_axes():
    tensor = read_metadata(BALANCED / "metadata.json").tensors["it's"]
    assert (tensor.layout.layout.tensor_map, tensor.layout.numbers) == (((1, 0), ()), (0, 1, 2, 3))


def test_a_tensor_without_a_layout_is_whole():
    tensor = read_metadata(BALANCED / "metadata.json").tensors["scale"]
    assert (tensor.layout, tensor.shape, tensor.fragments) == (None, (), ())


def test_what_training_says_of_the_step_is_read(tmp_path):
    assert read_common(BALANCED)["global_step"] == 7
    assert read_common(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "[]", '{"step": [1]}', '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000])
def test_a_damaged_common_json_is_refused(tmp_path, content):
    (tmp_path / "common.json").write_text(content)
    with pytest.raises(CorruptShard, match=r"common\.json"):
        read_common(tmp_path)


@pytest.mark.parametrize(
    ("key", "name", "number"),
    [
        ("('w', (0,))", "w", 0),
        ('("it\'s", (3,))', "it's", 3),
        (repr(("both' \"quotes", (12,))), "both' \"quotes", 12),
        (repr(("back\\slash", (1,))), "back\\slash", 1),
        ("('w', (12345678901,))", "w", 12345678901),
    ],
)
def test_a_key_is_a_python_literal(key, name, number):
    assert parse_key(key) == (name, number)
    assert key_of(name, number) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "w",
        "('w', 0)",
        "('w', ())",
        "('w', (0, 0))",
        "('w', (-1,))",
        "('w', (True,))",
        "(b'w', (0,))",
        "__import__('os').system('true')",
        "('w', (1 + 1j,))",
        "('w', (" + "9" * 5000 + ",))",
        "(" * 5000 + ")" * 5000,
        "('" + "w" * 100_000 + "\\n', (0,))",
        "('w\\ud800\0', (0,))",
    ],
)
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(ValueError, match="expected a key such as"):
        parse_key(key)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model-0000000-0000002.safetensors", "model"),
        ("-opt-0000000-0000002.safetensors", "opt"),
        ("my-opt-7b-model-0000002-0000008.safetensors", "model"),
        ("run-opt-0000002-0000008.safetensors", "opt"),
        ("weights.safetensors", None),
    ],
)
def test_a_file_name_says_its_kind(name, kind):
    assert kind_of(name) == kind


def _set(value: object, *path: str | int) -> Callable[[Any], None]:
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


W = ("state_dict_metadata", "w")
FILE = ("storage_data", "('w', (0,))", 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_set(True, *W, "layout", "interleaved_parallel"), UnsupportedFormat, "interleaved_parallel"),
        (_set(["dp", "interleaved_parallel"], *W, "layout", "alias_name"), UnsupportedFormat, "interleaved_parallel"),
        (_set(["dp", "dp"], *W, "layout", "alias_name"), LayoutError, "a name of its own for each axis"),
        (_set(["dp"], *W, "layout", "alias_name"), LayoutError, "a name of its own for each axis"),
        (_set([0, 1, 2], *W, "layout", "rank_list"), LayoutError, "rank_list of 4 different ranks"),
        (_set([0, 1, 2, 2], *W, "layout", "rank_list"), LayoutError, "3 of them different"),
        (_set([1, 0, 3, 2], *W, "layout", "rank_list"), LayoutError, "rank 0 holds slice 1 by its layout"),
        (_set([0, 2, 4, 6], *W, "layout", "rank_list"), LayoutError, "rank 2 holds slice 1 by its layout"),
        (_set([10**9, 10**9], *W, "layout", "device_matrix"), LayoutError, "rank_list of 10{18} different ranks"),
        (_set([1] * 33 + [4], *W, "layout", "device_matrix"), LayoutError, "1 to 32 axes"),
        (_set([0, 0], *W, "layout", "tensor_map"), LayoutError, "an axis is used twice"),
        (_set([7, -1], *W, "layout", "tensor_map"), LayoutError, "expected axes between 0 and 1"),
        (_set([-2, -1], *W, "layout", "tensor_map"), CorruptShard, "expected tensor_map to hold axes"),
        (_set([1, 0], *W, "layout", "tensor_map"), LayoutError, r"into \[2, 2\] parts, its axis_fragmentations"),
        (_set([0], *W, "layout", "tensor_map"), LayoutError, "its layout"),
        (_set({}, *W, "layout"), CorruptShard, "expected a layout with device_matrix"),
        (_set(None, *W, "layout"), LayoutError, "it has no layout"),
        (_set(True, *W, "properties", "allow_shape_mismatch"), UnsupportedFormat, "allow_shape_mismatch"),
        (_set("no", *W, "properties", "allow_to_save"), CorruptShard, "allow_to_save to be true or false"),
        (_set(3, *W, "properties", "replica_id"), UnsupportedFormat, "its replica_id is 3"),
        (_set([0, 1, 0, 1], *W, "properties", "replica_id"), UnsupportedFormat, r"its replica_id is \[0, 1, 0, 1\]"),
        (_set("Float7", *W, "properties", "dtype"), UnsupportedFormat, "its dtype is 'Float7'"),
        (_set("str", *W, "properties", "dtype"), UnsupportedFormat, "its dtype is 'str'"),
        (_set(1, *W, "properties", "shape"), UnsupportedFormat, "properties has shape"),
        (_set([5, 6], *W, "global_shape"), LayoutError, "cannot be cut into"),
        (_set([4, 6, 1], *W, "global_shape"), LayoutError, "a number of parts for each dimension"),
        (_set([4, -6], *W, "global_shape"), CorruptShard, "expected global_shape"),
        (_set([2, 0], *W, "axis_fragmentations"), LayoutError, "a number of parts for each dimension"),
        (_set([2.0, 1], *W, "axis_fragmentations"), CorruptShard, "expected axis_fragmentations"),
        (_set([2, 0], *W, "chunk", 1, "global_offset"), LayoutError, r"its global_offset is \[2, 0\]"),
        (_set([2], *W, "chunk", 1, "global_offset"), LayoutError, "that of the slice among 2"),
        (_set([0], *W, "chunk", 1, "global_offset"), LayoutError, "each of its 2 slices once"),
        (_set([4, 6], *W, "chunk", 1, "local_shape"), LayoutError, r"is \[2, 6\], its local_shape says \[4, 6\]"),
        (_set([], *W, "chunk"), CorruptShard, "expected chunk"),
        (_set({}, *W), CorruptShard, "a tensor has no"),
        (_set(None, *W), CorruptShard, "a tensor to be an object"),
        (_set({}, "state_dict_metadata"), LayoutError, "which state_dict_metadata doesn't describe"),
        (_set([], "state_dict_metadata"), CorruptShard, "expected {"),
        (_set({}, "version"), UnsupportedFormat, "'version'"),
        (_set([], "storage_data", "('w', (0,))"), CorruptShard, "expected a list of files"),
        (_set([{}], "storage_data", "('w', (0,))"), CorruptShard, "expected file_name and storage_rank"),
        (_set("../w.safetensors", *FILE, "file_name"), CorruptShard, "the name of a .safetensors beside it"),
        (_set("w.ckpt", *FILE, "file_name"), CorruptShard, "the name of a .safetensors beside it"),
        (_set(-1, *FILE, "storage_rank"), CorruptShard, "expected storage_rank"),
        (_set(10**9, *FILE, "storage_rank"), CorruptShard, "expected storage_rank"),
        (_set([2], *FILE, "rank_group"), LayoutError, r"rank 0 saved it, but its rank_group is \[2\]"),
        (_set([0, 1], *FILE, "rank_group"), LayoutError, "rank 1 holds slice 1 by its layout"),
        (_set(1, *FILE, "digest"), UnsupportedFormat, "has digest"),
        (_set([{"file_name": "x.safetensors", "storage_rank": 0}], "storage_data", "('w', (2,))"), LayoutError,
         "has 2 slices, storage_data has number 2"),
        (_set([{"file_name": "x.safetensors", "storage_rank": 0}], "storage_data", '("w", (0,))'), CorruptShard,
         "slice 0 of w appears twice"),
    ],
)  # fmt: skip
def test_every_field_is_obeyed_or_refused_by_name(changed, change, error, message):
    with pytest.raises(error, match=message) as found:
        read_metadata(changed(change))
    assert type(found.value) is error
    assert "metadata.json" in str(found.value)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"state_dict_metadata":{"w":' + b"[" * 10**5]
)
def test_what_is_no_metadata_is_refused(tmp_path, content):
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(CorruptShard, match=r"expected a metadata\.json of Checkpoint 2\.0"):
        read_metadata(tmp_path / "metadata.json")


@pytest.mark.parametrize("folder", [BALANCED, FIXTURES / "every_rank/iteration_00000012", FIRST.parent])
def test_damage_is_one_of_our_errors_or_not_seen(tmp_path, folder):
    """The document cut off, or one byte of it changed, at every seventh place."""
    shutil.copytree(folder, tmp_path / "it")
    path = tmp_path / "it" / "metadata.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        for damaged in (content[:place], content[:place] + b"9" + content[place + 1 :]):
            path.write_bytes(damaged)
            with suppress(CheckpointError):  # anything else ends the test
                read_metadata(path)


def _large(path: Path, ranks: int, parameters: int) -> int:
    """A metadata.json of so many parameters, each cut by eight and held by all ranks; returns its size."""
    layout = RankedLayout(Layout((ranks // 8, 8), ((0,), ())), tuple(range(ranks)), ("dp", "tp"))
    tensors = [StoredTensor(f"layers.{n}.weight", FLOAT32, (16, 16), (8, 1), layout) for n in range(parameters)]
    storage = (
        (Shard(tensor.name, number, group), [StoredSlice("model-0000000-0000001.safetensors", group[0], group)])
        for tensor in tensors
        for number, group in ((number, tuple(range(number, ranks, 8))) for number in range(8))
    )
    with path.open("wb") as file:
        file.writelines(encode_metadata(tensors, storage))
    return path.stat().st_size


def test_memory_is_a_few_times_the_file(tmp_path):
    """As objects of Python, numbers and all, the document would take eight times as much."""
    path = tmp_path / "metadata.json"
    size = _large(path, ranks=512, parameters=1000)
    tracemalloc.start()
    try:
        metadata = read_metadata(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(metadata.tensors) == 1000
    assert peak < 3 * size + (1 << 20)


@pytest.mark.parametrize(
    "change",
    [
        _set([10**9] * 3, *W, "layout", "device_matrix"),
        _set([2**60, 1], *W, "axis_fragmentations"),
        _set([2**62, 2**62], *W, "global_shape"),
        _set([2**24], *W, "chunk", 0, "global_offset"),
        _set(2**24 - 1, *FILE, "storage_rank"),
        _set([{"file_name": "x.safetensors", "storage_rank": 0}], "storage_data", f"('w', ({2**62},))"),
    ],
)
def test_small_hostile_documents_stay_small(changed, change):
    path = changed(change)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_metadata(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
