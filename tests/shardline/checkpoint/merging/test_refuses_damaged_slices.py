"""Slices that are damaged, or not what they claim to be."""

import errno
import os
import shutil
import tracemalloc

import numpy as np
import pytest

from shardline.base.errors import (
    CorruptShard,
    LayoutError,
    MissingShard,
    NonFiniteValue,
    ReplicaMismatch,
    UnsupportedFormat,
)
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging.work import MergeWork
from shardline.checkpoint.shards.selection import Selection
from tests.shardline.checkpoint.merge_case import NAME
from tests.shardline.checkpoint.sharding import LAYOUTS, save_manifest, save_shards, slices_of, tensors


def test_the_case_itself_merges(case):
    merged = read_checkpoint(case.merge().output)
    assert all(np.array_equal(merged[name], array) for name, array in tensors().items())


@pytest.mark.parametrize("proof", [True, False])
def test_a_flipped_bit_is_found_by_the_replicas(case, proof):
    case.flip(3, 100)
    case.refused(ReplicaMismatch, r"parameter layer1.weight.*rank 3", proof=proof)


def test_a_flipped_bit_is_found_by_the_manifest(case):
    save_manifest(case.shards, case.strategy)
    case.flip(3, 100)
    case.refused(CorruptShard, r"\(rank 3\): expected the digest")


@pytest.mark.parametrize("proof", [True, False])
def test_the_manifest_explains_a_slice_that_is_damaged_and_not_finite(case, proof):
    save_manifest(case.shards, case.strategy)
    damaged = slices_of(tensors(), LAYOUTS, 1)["layer1.weight"].copy()
    damaged.flat[0] = np.nan
    case.rewrite(1, **{"layer1.weight": damaged})
    case.refused(CorruptShard, r"rank_1.*manifest", proof=proof)


def test_a_flipped_bit_is_found_by_the_files_own_checksum(case):
    save_shards(case.shards, tensors(), crc=True)
    for rank in range(8):
        case.flip(rank, 100)
    case.refused(CorruptShard, r"rank_\d.*its own checksum")


def test_not_a_number_is_refused_unless_allowed(case):
    whole = tensors()
    whole["layer3.weight"][7, 4] = np.nan
    save_shards(case.shards, whole)
    case.refused(NonFiniteValue, r"parameter layer3.weight: a NaN or an infinity")
    merged = read_checkpoint(case.merge(allow_non_finite=True).output)
    assert np.isnan(merged["layer3.weight"][7, 4])


def test_a_cast_that_overflows_is_refused(case):
    whole = tensors()
    whole["layer1.bias"][0] = 1e6
    save_shards(case.shards, whole)
    case.refused(NonFiniteValue, r"layer1.bias.*too large for Float16", selection=Selection(dtype="float16"))


def test_a_slice_of_the_wrong_shape_is_refused(case):
    case.rewrite(6, **{"layer3.weight": np.zeros((2, 5), np.float32)})
    case.refused(LayoutError, r"parameter layer3.weight: .*Float32 \[2, 5\] on ranks \[6\]")


def test_a_slice_of_another_dtype_is_refused(case):
    case.rewrite(6, **{"layer3.weight": np.zeros((4, 5), np.float16)})
    case.refused(LayoutError, r"parameter layer3.weight: .*Float16 \[4, 5\] on ranks \[6\]")


@pytest.mark.parametrize("length", [0, 1, 50, 699])
def test_a_truncated_file_is_refused(case, length):
    whole = case.file(1).read_bytes()
    case.file(1).write_bytes(whole[: min(length, len(whole) - 1)])
    case.refused(CorruptShard, r"rank_1")


def test_files_that_change_while_they_are_read_are_refused(case, monkeypatch):
    genuine = MergeWork.prove

    def touched(self, tensors):
        genuine(self, tensors)
        case.rewrite(4)

    monkeypatch.setattr(MergeWork, "prove", touched)
    case.refused(CorruptShard, r"rank_4.*changed while it was read")


def test_a_header_that_claims_an_exabyte_costs_nothing(case):
    case.file(1).write_bytes(bytes.fromhex("0a808080808080808010") + b"\0" * 100)
    tracemalloc.start()
    case.refused(
        CorruptShard, r"rank_1.*byte 1: expected at most 100 more bytes, found a length of 1152921504606846976"
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_safetensors_header_that_claims_an_exabyte_costs_nothing(case):
    for rank in range(8):
        case.file(rank).unlink()
    save_shards(case.shards, tensors(), name="net-1_1.safetensors")
    case.file(1, "net-1_1.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}" * 50)
    case.refused(CorruptShard, "found a length of 1152921504606846976")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../b", "a\nb", ""])
def test_a_tensor_named_like_a_path_is_refused(case, suffix, name):
    shutil.rmtree(case.shards)
    save_shards(case.shards, {**tensors(), name: np.zeros(2, np.float32)}, name=f"net-1_1{suffix}")
    case.refused(CorruptShard, "expected a parameter's name")


def test_duplicate_names_are_refused(case):
    content = case.file(1).read_bytes()
    case.file(1).write_bytes(content + content)
    case.refused(CorruptShard, r"rank_1.*a second tensor is named 'layer1.weight'")


def test_duplicate_names_in_safetensors_are_refused(case):
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    for rank in range(8):
        case.file(rank).unlink()
        case.file(rank, "net-1_1.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\1")
    case.refused(CorruptShard, "the name 'a' appears twice")


def test_a_map_tensor_is_refused_by_name(case):
    case.file(1).write_bytes(bytes.fromhex("0a07 0a0161 1a02 0a00".replace(" ", "")))
    case.refused(UnsupportedFormat, "'a' is a map tensor")


def test_a_disk_that_fails_while_reading_is_refused(case, monkeypatch):
    def failing(descriptor: int, buffers: list, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    case.refused(CorruptShard, r"rank_0.*cannot be read at byte .*Input/output error")


def test_a_file_that_cannot_be_opened_is_refused(case, monkeypatch):
    genuine = os.open

    def forbidden(path: object, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith(f"rank_4/{NAME}"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return genuine(path, flags, mode)

    monkeypatch.setattr(os, "open", forbidden)
    case.refused(MissingShard, r"rank_4.*cannot be opened: Permission denied")


def test_a_folder_in_place_of_a_file_is_refused(case):
    case.file(1).unlink()
    case.file(1).mkdir()
    case.refused(MissingShard, r"rank_1: expected a file named PREFIX-EPOCH_STEP\.ckpt or \.safetensors, found none")
