"""Both checkpoint formats, byte by byte, and what is refused in them."""

import json
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import load_file, save_file

from shardline.base.errors import CheckpointError, CorruptShard, MissingShard, UnsupportedFormat
from shardline.checkpoint.formats import ckpt
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.formats.crc import crc32_of_zeros
from shardline.checkpoint.formats.tensor_types import BFLOAT16, BY_NAME, INT4
from shardline.checkpoint.strategy.layout import Layout

RECORD = bytes.fromhex("0a14 0a0177 120f 0802 1205 496e743634 1a04 01020304".replace(" ", ""))


def test_a_ckpt_record_is_these_bytes(tmp_path):
    write_checkpoint({"w": np.array([1, -2], dtype=np.int16)}, tmp_path / "x.ckpt")
    assert (tmp_path / "x.ckpt").read_bytes() == b"\n\x14\n\x01w\x12\x0f\x08\x02\x12\x05Int16\x1a\x04\x01\x00\xfe\xff"


def test_a_scalar_has_no_dimensions(tmp_path):
    write_checkpoint({"s": np.array(7, dtype=np.uint8)}, tmp_path / "x.ckpt")
    assert (tmp_path / "x.ckpt").read_bytes() == b"\n\x0f\n\x01s\x12\n\x12\x05UInt8\x1a\x01\x07"


def test_a_string_is_utf_32_with_the_dimension_zero(tmp_path):
    write_checkpoint({"t": "é"}, tmp_path / "x.ckpt")
    assert (tmp_path / "x.ckpt").read_bytes() == b"\n\x12\n\x01t\x12\r\x08\x00\x12\x03str\x1a\x04\xe9\x00\x00\x00"
    assert bytes(read_checkpoint(tmp_path / "x.ckpt")["t"]).decode("utf-32-le") == "é"


def test_a_trailer_carries_the_checksum(tmp_path):
    write_checkpoint({"s": np.array(7, dtype=np.uint8)}, tmp_path / "x.ckpt", crc=True)
    content = (tmp_path / "x.ckpt").read_bytes()
    assert content[-17:-10] == b"crc_num"
    assert read_checkpoint(tmp_path / "x.ckpt").index.crc == int.from_bytes(content[-10:], "big")


def test_an_old_scalar_with_the_dimension_zero_is_a_scalar(tmp_path):
    content = b"\n\x14\n\x01s\x12\x0f\x08\x00\x12\x05Int32\x1a\x04\x01\x00\x00\x00"
    (tmp_path / "x.ckpt").write_bytes(content)
    assert read_checkpoint(tmp_path / "x.ckpt")["s"] == np.int32(1)


def test_a_tensor_in_pieces_is_one_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(ckpt, "PIECE", 7)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_checkpoint({"a": array, "b": array}, tmp_path / "x.ckpt")
    found = read_checkpoint(tmp_path / "x.ckpt")
    assert [len(found.index.extents(position)) for position in (0, 1)] == [7, 7]
    assert np.array_equal(found["a"], array)
    assert np.array_equal(found["b"], array)


def test_pieces_that_disagree_are_refused(tmp_path):
    whole = b"\n\x13\n\x01s\x12\x0e\x08\x02\x12\x05Int32\x1a\x03\x01\x00\x00"
    other = b"\n\x15\n\x01s\x12\x10\x08\x03\x12\x05Int32\x1a\x05\x00\x00\x00\x00\x00"
    (tmp_path / "x.ckpt").write_bytes(whole + other)
    with pytest.raises(CorruptShard, match="the pieces of 's' disagree"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_a_payload_of_the_wrong_length_is_refused(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"\n\x13\n\x01s\x12\x0e\x08\x02\x12\x05Int32\x1a\x03\x01\x00\x00")
    with pytest.raises(CorruptShard, match=r"'s' \(Int32 \[2\]\): expected 8 bytes, found 3"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_an_unknown_type_is_refused_by_name(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(RECORD.replace(b"Int64", b"Quark"))
    with pytest.raises(UnsupportedFormat, match="'w' has the type 'Quark'"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("length", range(1, len(RECORD)))
def test_a_cut_record_is_refused(tmp_path, length):
    (tmp_path / "x.ckpt").write_bytes(RECORD[:length])
    with pytest.raises(CorruptShard, match=r"x\.ckpt"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_a_second_file_of_equal_headers_is_read_as_the_first_was(tmp_path):
    for number in range(3):
        array = np.full((2, 3), number, dtype=np.float32)
        write_checkpoint({"a": array, "b": array}, tmp_path / f"{number}.ckpt", crc=number != 2)
    first, second, third = (read_checkpoint(tmp_path / f"{number}.ckpt") for number in range(3))
    assert second.index.schema is first.index.schema is third.index.schema
    assert second.index.crc != first.index.crc
    assert third.index.crc is None
    assert second["b"][0, 0] == 1


def test_a_file_that_ends_like_another_but_for_its_checksum_is_refused(tmp_path):
    write_checkpoint({"a": np.zeros(3, np.float32)}, tmp_path / "a.ckpt", crc=True)
    read_checkpoint(tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "b.ckpt").write_bytes(content[:-17] + b"x" * 17)
    with pytest.raises(CorruptShard, match=r"b\.ckpt"):
        read_checkpoint(tmp_path / "b.ckpt")


def test_safetensors_are_the_librarys_bytes(tmp_path):
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array([True]),
        "é": np.array(3, dtype=np.int64),
        "half": np.ones(3, dtype=np.float16),
        "empty": np.zeros((0, 4), dtype=np.uint8),
    }
    write_checkpoint(arrays, tmp_path / "ours.safetensors")
    save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "ms"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    loaded = load_file(tmp_path / "ours.safetensors")
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())


def test_int4_and_bfloat16_keep_their_types_in_safetensors(tmp_path):
    arrays = {"i": np.array([[1, 2]], dtype=np.int8), "b": np.array([0x3F80], dtype=np.uint16)}
    write_checkpoint(arrays, tmp_path / "x.safetensors", types={"i": INT4, "b": BFLOAT16})
    found = read_checkpoint(tmp_path / "x.safetensors")
    assert (found.header("i").type, found.header("b").type) == (INT4, BFLOAT16)
    assert found.index.metadata == {"format": "ms", "i": "Int4"}


def test_a_string_does_not_fit_into_safetensors(tmp_path):
    with pytest.raises(UnsupportedFormat, match="'t' is a string"):
        write_checkpoint({"t": "text"}, tmp_path / "x.safetensors")


def test_a_dtype_without_a_name_is_refused(tmp_path):
    with pytest.raises(UnsupportedFormat, match="cannot hold the dtype datetime64"):
        write_checkpoint({"c": np.zeros(1, "datetime64[s]")}, tmp_path / "x.ckpt")


def test_complex_numbers_are_these_bytes_in_both_formats(tmp_path):
    array = np.array([1 + 2j], dtype=np.complex64)
    write_checkpoint({"c": array}, tmp_path / "x.ckpt")
    payload = bytes.fromhex("0000803f00000040")
    assert (tmp_path / "x.ckpt").read_bytes() == b"\n\x1c\n\x01c\x12\x17\x08\x01\x12\tComplex64\x1a\x08" + payload
    write_checkpoint({"c": array}, tmp_path / "x.safetensors")
    save_file({"c": array}, tmp_path / "theirs.safetensors", metadata={"format": "ms"})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert all(
        np.array_equal(read_checkpoint(tmp_path / f"x.{suffix}")["c"], array) for suffix in ("ckpt", "safetensors")
    )


def raw_safetensors(path: Path, header: object, payload: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload)
    return path


CODES = {tensor_type.code: tensor_type for tensor_type in BY_NAME.values() if tensor_type.code}


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_type_of_safetensors_is_moved_byte_by_byte(tmp_path, code):
    if code == "I8":
        pytest.skip("two types are held as I8; the metadata tells them apart")
    width, packed = CODES[code].itemsize, CODES[code].packed
    payload = bytes(number % 61 for number in range(6 * width))
    header = {"w": {"dtype": code, "shape": [2, 3 * packed], "data_offsets": [0, len(payload)]}}
    found = read_checkpoint(raw_safetensors(tmp_path / "a.safetensors", header, payload))
    write_checkpoint(dict(found), tmp_path / "b.safetensors", types={"w": found.header("w").type})
    (name, theirs), *_ = deserialize((tmp_path / "b.safetensors").read_bytes())
    assert (name, theirs["dtype"], theirs["shape"], bytes(theirs["data"])) == ("w", code, [2, 3 * packed], payload)


@pytest.mark.parametrize(
    ("name", "suffix", "problem"),
    [
        ("Complex128", "safetensors", "'w' is of the type Complex128, which .safetensors cannot hold"),
        ("HiFloat8", "safetensors", "'w' is of the type HiFloat8, which .safetensors cannot hold"),
        ("Float8E8M0", "ckpt", "'w' is of the type Float8E8M0, which no .ckpt can hold"),
        ("Float4E2M1", "ckpt", "'w' is of the type Float4E2M1, which no .ckpt can hold"),
    ],
)
def test_a_type_that_a_format_lacks_is_refused_before_anything_is_written(tmp_path, name, suffix, problem):
    array = np.zeros((2, 2), dtype=BY_NAME[name].storage)
    with pytest.raises(UnsupportedFormat, match=problem):
        write_checkpoint({"w": array}, tmp_path / f"x.{suffix}", types={"w": BY_NAME[name]})
    assert not list(tmp_path.iterdir())


def test_rows_that_end_within_a_byte_are_refused_by_name(tmp_path):
    header = {"w": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}}
    with pytest.raises(UnsupportedFormat, match=r"'w' \(Float4E2M1 \[2, 3\]\): its last dimension is no multiple of 2"):
        read_checkpoint(raw_safetensors(tmp_path / "x.safetensors", header, b"123"))


def test_more_dimensions_than_an_array_can_have_are_refused(tmp_path):
    header = {"w": {"dtype": "U8", "shape": [1] * 33, "data_offsets": [0, 1]}}
    with pytest.raises(UnsupportedFormat, match="has 33 dimensions"):
        read_checkpoint(raw_safetensors(tmp_path / "x.safetensors", header, b"1"))
    tensor = b"\x08\x01" * 33 + b"\x12\x05UInt8\x1a\x01\x07"
    value = b"\n\x01s\x12" + bytes([len(tensor)]) + tensor
    (tmp_path / "x.ckpt").write_bytes(b"\n" + bytes([len(value)]) + value)
    with pytest.raises(UnsupportedFormat, match="has 33 dimensions"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("number", "mode"), [(0x7F3A5ED8, "AES-GCM"), (0x7F3A5ED9, "AES-CBC"), (0x7F3A5EDA, "SM4-CBC")]
)
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_an_encrypted_file_is_named_whatever_its_suffix(tmp_path, number, mode, suffix):
    (tmp_path / f"x.{suffix}").write_bytes(number.to_bytes(4, "little") + bytes(100))
    with pytest.raises(UnsupportedFormat, match=f"is encrypted \\({mode}; .*load it by load_checkpoint"):
        read_checkpoint(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 1000, 65_537])
@pytest.mark.parametrize("before", [b"", b"name"])
def test_the_checksum_of_zeros_needs_no_zeros(count, before):
    assert crc32_of_zeros(count, zlib.crc32(before)) == zlib.crc32(before + bytes(count))


fuzzed = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = {"__metadata__": {"crc_num": "7"}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("9" * 5000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
@fuzzed
def test_no_header_raises_anything_else_than_our_errors(tmp_path, data):
    header = json.loads(json.dumps(PLAIN))
    place = data.draw(st.sampled_from([header, header["w"], header["__metadata__"]]))
    place[data.draw(st.sampled_from([*place, "new"]))] = data.draw(JSON)
    with suppress(CheckpointError):
        read_checkpoint(raw_safetensors(tmp_path / "x.safetensors", header, b"1234"))


@given(st.binary(max_size=60), st.integers(0, len(RECORD) * 2), st.sampled_from(["insert", "replace", "alone"]))
@fuzzed
def test_no_bytes_raise_anything_else_than_our_errors(tmp_path, inserted, position, how):
    content = RECORD.replace(b"Int64", b"Int32").replace(b"\x08\x02", b"\x08\x01") + RECORD.replace(b"\x01w", b"\x01v")
    after = position + (len(inserted) if how == "replace" else 0)
    changed = inserted if how == "alone" else content[:position] + inserted + content[after:]
    for suffix in ("ckpt", "safetensors"):
        (tmp_path / f"x.{suffix}").write_bytes(changed)
        with suppress(CheckpointError):
            dict(read_checkpoint(tmp_path / f"x.{suffix}"))


@pytest.mark.parametrize(
    ("header", "payload", "problem"),
    [
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, b"1", "describes"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"12", "describes"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, b"12", "should take bytes 0 to 1"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234", "should take bytes 0 to 8"),
        ({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}, b"1", "not one of .safetensors"),
        ({"a": {"dtype": "U8", "shape": [2**62, 2**62], "data_offsets": [0, 1]}}, b"1", "impossible dimensions"),
        ({"a": {"dtype": "U8", "shape": [1]}}, b"1", "not one of .safetensors"),
        ({"a": 3}, b"1", "not one of .safetensors"),
        ([], b"", "expected a JSON object as header"),
        ({"__metadata__": {"crc_num": "x"}}, b"", "expected a checksum"),
        ({"__metadata__": {"crc_num": "9" * 5000}}, b"", "expected a checksum"),
        ({"w\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1", "lone surrogate"),
        ({"a": {"dtype": "U8", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b"", "impossible dimensions"),
        ({"__metadata__": {"n": 3}}, b"", "other things than strings"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(tmp_path, header, payload, problem):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + payload)
    with pytest.raises(CorruptShard, match=problem):
        read_checkpoint(tmp_path / "x.safetensors")


def test_types_that_nobody_knows_are_refused_by_name(tmp_path):
    header = {"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 1]}}
    with pytest.raises(UnsupportedFormat, match="'a' has the type 'F3'"):
        read_checkpoint(raw_safetensors(tmp_path / "x.safetensors", header, b"1"))


def test_a_rank_reads_its_slice_of_an_integrated_file(tmp_path):
    array = np.arange(48, dtype=np.float32).reshape(4, 12)
    write_checkpoint({"w": array, "s": np.array(1.0, dtype=np.float32)}, tmp_path / "x.ckpt")
    found = read_checkpoint(tmp_path / "x.ckpt")
    layout = Layout((2, 3), ((1,), (0,)))
    for rank in range(6):
        assert np.array_equal(found.slice("w", layout, rank), array[layout.slice_of(rank, array.shape)])
    assert found.slice("s", Layout((6,), ()), 3) == 1.0


def test_a_missing_file_and_a_strange_suffix_are_refused(tmp_path):
    with pytest.raises(MissingShard):
        read_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(UnsupportedFormat):
        read_checkpoint(tmp_path / "x.bin")
