"""Merges of every type and kind of tensor, and what the proof itself finds."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from shardline.base.errors import CorruptShard, MissingShard, NonFiniteValue, ProofError, UnsupportedFormat
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.output_file import layout_output
from shardline.checkpoint.formats.tensor_types import BFLOAT16, BY_NAME, FLOAT32, INT4, TEXT, cast
from shardline.checkpoint.merging.execute import Assembler
from shardline.checkpoint.merging.layout_digest import LayoutDigest
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.record_file import read_record, record_path
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors

LAYOUT = Layout((2, 2), ((1,), (0,)))


def save(path: Path, arrays: dict, types: dict | None = None, sharded: tuple[str, ...] = ()) -> MergeRequest:
    """Four ranks' files: the tensors named in `sharded` are cut by `LAYOUT`, all others whole."""
    layouts = dict.fromkeys(sharded, LAYOUT) or {"anchor": LAYOUT}
    whole = {**arrays, **({} if sharded else {"anchor": np.zeros((2, 2), np.int8)})}
    for rank in range(4):
        held = {
            name: array[LAYOUT.slice_of(rank, array.shape)] if name in layouts else array
            for name, array in whole.items()
        }
        (path / "shards" / f"rank_{rank}").mkdir(parents=True)
        write_checkpoint(held, path / "shards" / f"rank_{rank}" / "net-1_1.ckpt", types)
    return MergeRequest(path / "shards", (save_strategy(path / "s.ckpt", layouts),), path / "out" / "model.ckpt")


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
def test_slices_of_every_type_merge(tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 2, (6, 4)).astype(dtype)
    merged = read_checkpoint(merge(save(tmp_path, {"w": array}, sharded=("w",))).output)
    assert merged["w"].dtype == array.dtype
    assert np.array_equal(merged["w"], array)


@pytest.mark.parametrize("tensor_type", [BFLOAT16, INT4])
def test_types_that_numpy_lacks_merge_by_their_bits(tmp_path, tensor_type):
    array = np.arange(24).astype(tensor_type.storage).reshape(6, 4)
    merged = read_checkpoint(merge(save(tmp_path, {"w": array}, {"w": tensor_type}, ("w",))).output)
    assert merged.header("w").type is tensor_type
    assert np.array_equal(merged["w"], array)


def test_strings_scalars_and_empty_tensors_merge(tmp_path):
    arrays = {"text": "größe", "s": np.array(3, dtype=np.int32), "empty": np.zeros((0, 3), np.float32)}
    merged = read_checkpoint(merge(save(tmp_path, arrays)).output)
    assert bytes(merged["text"]).decode("utf-32-le") == "größe"
    assert merged["s"] == 3
    assert merged["empty"].shape == (0, 3)


def test_a_string_is_refused_in_safetensors_by_name(tmp_path):
    request = save(tmp_path, {"text": "abc"})
    with pytest.raises(UnsupportedFormat, match="'text' is a string"):
        merge(MergeRequest(request.shards, request.strategies, tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_cast_rounds_floating_point_and_leaves_the_rest(tmp_path, dtype):
    array = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    request = save(tmp_path, {"w": array, "n": np.arange(3)}, sharded=("w",))
    merged = merge(MergeRequest(request.shards, request.strategies, request.output, selection=Selection(dtype=dtype)))
    found = read_checkpoint(merged.output)
    expected = cast(array.reshape(-1), FLOAT32, found.header("w").type).reshape(6, 4)
    assert np.array_equal(found["w"], expected)
    assert found["n"].dtype == np.int64


def test_the_proof_finds_what_was_written_wrong(tmp_path, monkeypatch):
    genuine = Assembler.assemble

    def wrong(self, task):
        content = genuine(self, task)
        content[-1] += 1
        return content

    monkeypatch.setattr(Assembler, "assemble", wrong)
    request = save(tmp_path, {"w": np.zeros((6, 4), np.float32)}, sharded=("w",))
    with pytest.raises(ProofError, match=r"parameter w, .* the written output differs from .*rank 3"):
        merge(request)
    assert not request.output.exists()


def test_a_merge_without_proof_has_none_in_its_record(tmp_path):
    request = save(tmp_path, {"w": np.zeros((6, 4), np.float32)}, sharded=("w",))
    record = merge(MergeRequest(request.shards, request.strategies, request.output, proof=False)).record
    assert record["proof"] is None
    proved = merge(request)
    assert proved.was_up_to_date is False
    assert proved.record["proof"]["slices_compared"] == 4


@pytest.mark.parametrize("proof", [True, False])
@pytest.mark.parametrize("output", ["model.ckpt", "model.safetensors", "checksum.ckpt", "several.safetensors"])
def test_the_recorded_digest_is_of_the_file_as_it_lies_there(tmp_path, output, proof):
    """It is taken while the file is written, except with a checksum."""
    arrays = {"w": np.arange(24.0).reshape(6, 4), "b": np.arange(6, dtype=np.int8), "empty": np.zeros((0, 3))}
    request = save(tmp_path, arrays, sharded=("w",))
    options = {"crc": output == "checksum.ckpt", "max_file_size": 100 if output == "several.safetensors" else None}
    merged = merge(replace(request, output=tmp_path / output, proof=proof, **options))
    assert {file["name"]: file["digest"] for file in merged.record["output"]} == {
        file["name"]: blake3((tmp_path / file["name"]).read_bytes()).hexdigest() for file in merged.record["output"]
    }


def test_a_file_system_without_uncached_writes_gets_the_same_bytes(tmp_path, monkeypatch):
    def refuse(descriptor, buffers, offset, flags=0):
        if flags:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return genuine(descriptor, buffers, offset)

    request = replace(save(tmp_path, {"w": np.arange(24.0).reshape(6, 4)}, sharded=("w",)), proof=False)
    uncached = merge(request)
    genuine = os.pwritev
    monkeypatch.setattr(os, "pwritev", refuse)
    cached = merge(replace(request, output=tmp_path / "cached" / "model.ckpt"))
    assert cached.output.read_bytes() == uncached.output.read_bytes()
    assert cached.digest == uncached.digest


def test_a_digest_of_blocks_out_of_order_is_refused():
    (layout,) = layout_output("x.ckpt", [TensorHeader("a", FLOAT32, (2,)), TensorHeader("b", FLOAT32, (2,))], "ckpt")
    digest = LayoutDigest(layout)
    with pytest.raises(ValueError, match="0 bytes were taken"):
        digest.update("b", 0, np.zeros(8, np.uint8))
    with pytest.raises(ValueError, match="bytes were taken"):
        digest.hexdigest()


@pytest.fixture
def merged(tmp_path):
    save_shards(tmp_path / "shards", tensors())
    strategy = save_strategy(tmp_path / "strategy.ckpt")
    return merge(MergeRequest(tmp_path / "shards", (strategy,), tmp_path / "out" / "model.ckpt")).output


def test_a_merged_file_is_verified(merged):
    assert verify(merged)["output"][0]["name"] == "model.ckpt"


def test_a_truncated_file_is_no_longer_what_was_merged(merged):
    merged.write_bytes(merged.read_bytes()[:-1])
    with pytest.raises(ProofError, match=r"expected \d+ bytes, found \d+"):
        verify(merged)


def test_a_changed_tensor_is_named(merged):
    content = bytearray(merged.read_bytes())
    content[100] ^= 1
    merged.write_bytes(content)
    with pytest.raises(ProofError, match=r"damaged: layer1\.weight;"):
        verify(merged)


def test_a_missing_file_is_named(merged):
    merged.unlink()
    with pytest.raises(MissingShard, match=r"model\.ckpt: the record names it"):
        verify(merged)


def test_another_file_beside_the_record_is_not_its_output(merged):
    with pytest.raises(MissingShard, match=r"other\.ckpt: expected its record, other\.ckpt\.merge\.json, beside it"):
        verify(merged.with_name("other.ckpt"))
    merged.with_name("other.ckpt.merge.json").write_bytes(record_path(merged).read_bytes())
    with pytest.raises(ProofError, match="was it moved without it"):
        verify(merged.with_name("other.ckpt"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "output": 3}'])
def test_what_is_no_record_is_refused(merged, content):
    record_path(merged).write_text(content)
    with pytest.raises(CorruptShard, match=r"merge\.json"):
        read_record(record_path(merged))


def test_a_record_that_names_files_elsewhere_is_refused(merged):
    path = record_path(merged)
    path.write_text(path.read_text().replace('"name": "model.ckpt"', '"name": "../model.ckpt"'))
    with pytest.raises(CorruptShard, match="expected names of files beside it"):
        verify(merged)


PLAIN_TYPES = [each for each in BY_NAME.values() if each is not TEXT]


@pytest.mark.parametrize("tensor_type", PLAIN_TYPES, ids=[each.name for each in PLAIN_TYPES])
def test_slices_of_every_type_are_merged_and_cut_anew(tmp_path, tensor_type):
    suffix = "ckpt" if tensor_type.in_ckpt else "safetensors"
    content = bytes(number * 7 % 41 for number in range(24 * tensor_type.itemsize))
    whole = np.frombuffer(content, dtype=tensor_type.storage).reshape(4, 6)
    layouts, types = {"w": Layout((2, 3), ((1,), (0,)))}, {"w": tensor_type}
    save_shards(tmp_path / "shards", {"w": whole}, layouts, f"net-1_1.{suffix}", 6, types=types)
    strategy = save_strategy(tmp_path / "s.ckpt", layouts)
    merged = merge(MergeRequest(tmp_path / "shards", (strategy,), tmp_path / "out" / f"m.{suffix}"))
    found = read_checkpoint(merged.output)
    assert (found.header("w").type, found["w"].tobytes()) == (tensor_type, content)
    halves = save_strategy(tmp_path / "halves.ckpt", {"w": Layout((2,), ((), (0,)))})
    reshard(ReshardRequest((halves,), tmp_path / "new", tmp_path / "shards", (strategy,), file_format=suffix))
    part = read_checkpoint(tmp_path / "new" / "rank_1" / f"net-1_1.{suffix}")["w"]
    assert part.tobytes() == whole[:, 3:].tobytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [("Complex64", b"\0\0\0\0\0\0\xc0\x7f"), ("Complex128", bytes(14) + b"\xf0\x7f"), ("Float8E5M2", b"\x7c")],
)
def test_what_is_not_finite_is_refused_in_every_type_that_has_it(tmp_path, name, content):
    array = np.frombuffer(content, dtype=BY_NAME[name].storage)
    save_shards(tmp_path / "shards", {"w": array}, {}, "net-1_1.ckpt", 1, types={"w": BY_NAME[name]})
    request = MergeRequest(tmp_path / "shards", (), tmp_path / "out" / "m.ckpt", integrated=True)
    with pytest.raises(NonFiniteValue, match="parameter w"):
        merge(request)
    merged = merge(replace(request, allow_non_finite=True))
    assert read_checkpoint(merged.output)["w"].tobytes() == content


def test_eight_bits_are_cast_and_complex_numbers_are_not(tmp_path):
    arrays = {"f": np.array([0x38, 0xC0], dtype=np.uint8), "c": np.array([1 + 2j], dtype=np.complex64)}
    types = {"f": BY_NAME["Float8E4M3FN"]}
    save_shards(tmp_path / "shards", arrays, {}, "net-1_1.ckpt", 1, types=types)
    request = MergeRequest(tmp_path / "shards", (), tmp_path / "out" / "m.ckpt", integrated=True)
    found = read_checkpoint(merge(replace(request, selection=Selection(dtype="float32"))).output)
    assert found["f"].tolist() == [1.0, -2.0]
    assert found.header("c").type.name == "Complex64"
