"""Everything that a merge must not be fooled by: one test each. Bad input ends with one error that says what and where,
the old output untouched and nothing else left behind."""

import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tasks.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from tasks.checkpoint.layout import Layout
from tasks.checkpoint.merge import Merged, merge
from tasks.checkpoint.output_lock import exclusive
from tasks.checkpoint.request import MergeRequest
from tasks.checkpoint.selection import Selection
from tasks.checkpoint.work import MergeWork
from tasks.errors import (
    CheckpointError,
    ConfigError,
    CorruptShard,
    LayoutError,
    MissingShard,
    NonFiniteValue,
    OutputError,
    ReplicaMismatch,
    StepMismatch,
    UnsupportedFormat,
)
from tests.checkpoint.sharding import LAYOUTS, save_manifest, save_shards, save_strategy, slices_of, tensors

NAME = "checkpoint-1_20.ckpt"


class Case:
    """A folder with slices, their strategy, and an output that an earlier merge left."""

    def __init__(self, path: Path) -> None:
        self.path, self.shards = path, path / "shards"
        self.strategy = save_strategy(path / "strategy.ckpt")
        save_shards(self.shards, tensors())
        self.output = path / "out" / "model.ckpt"
        save_shards(path / "old", tensors(seed=9))
        merge(MergeRequest(path / "old", (self.strategy,), self.output))
        self.before = self.snapshot()

    def file(self, rank: int, name: str = NAME) -> Path:
        return self.shards / f"rank_{rank}" / name

    def snapshot(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.parent.iterdir()}

    def merge(self, **options: object) -> Merged:
        return merge(MergeRequest(self.shards, (self.strategy,), self.output, **options))

    def refused(self, error: type[CheckpointError] | type[ConfigError], message: str, **options: object) -> None:
        with pytest.raises(error, match=message):
            self.merge(**options)
        assert self.snapshot() == self.before

    def rewrite(self, rank: int, **changes: object) -> None:
        """Save one rank's file again, with some tensors other than they were; `None` removes one."""
        arrays = {**slices_of(tensors(), LAYOUTS, rank), **changes}
        write_checkpoint({name: array for name, array in arrays.items() if array is not None}, self.file(rank))

    def flip(self, rank: int, position: int) -> None:
        content = bytearray(self.file(rank).read_bytes())
        content[position] ^= 1
        self.file(rank).write_bytes(content)


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


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


@pytest.mark.parametrize("proof", [True, False])
def test_replicas_that_differ_are_refused(case, proof):
    case.rewrite(5, **{"layer1.bias": tensors()["layer1.bias"] + 1})
    case.refused(ReplicaMismatch, r"parameter layer1.bias.*rank 5", proof=proof)


def test_ranks_at_different_steps_are_refused(case):
    case.file(4).rename(case.file(4, "checkpoint-1_10.ckpt"))
    case.refused(StepMismatch, r"no step in common.*ranks \[4\]: checkpoint-1_10.ckpt")


def test_a_newer_step_that_some_ranks_lack_is_passed_over_and_said(case):
    for rank in range(3):
        shutil.copy(case.file(rank), case.file(rank, "checkpoint-1_30.ckpt"))
    notices = case.merge().notices
    assert notices[0].startswith("taking checkpoint-1_20.ckpt")
    assert "checkpoint-1_30.ckpt is on ranks [0, 1, 2] only" in notices[0]


def test_steps_are_compared_as_numbers(case):
    save_shards(case.shards, tensors(seed=1), name="checkpoint-1_90.ckpt")
    save_shards(case.shards, tensors(seed=2), name="checkpoint-1_100.ckpt")
    save_shards(case.shards, tensors(seed=3), name="checkpoint-1_9.ckpt")
    merged = read_checkpoint(case.merge().output)
    assert np.array_equal(merged["layer1.bias"], tensors(seed=2)["layer1.bias"])


def test_two_runs_in_one_folder_are_refused(case):
    save_shards(case.shards, tensors(seed=1), name="checkpoint_1-1_20.ckpt")
    case.refused(StepMismatch, "by different runs")


@pytest.mark.parametrize("proof", [True, False])
def test_swapped_folders_are_found_by_replicas(case, proof):
    swap(case, 0, 2)
    case.refused(ReplicaMismatch, r"parameter layer[13].weight", proof=proof)


def test_swapped_folders_are_found_by_the_manifest(case):
    save_manifest(case.shards, case.strategy)
    swap(case, 0, 2)
    case.refused(CorruptShard, r"it is the file of rank \d: were folders swapped")


def swap(case: Case, a: int, b: int) -> None:
    (case.shards / f"rank_{a}").rename(case.shards / "x")
    (case.shards / f"rank_{b}").rename(case.shards / f"rank_{a}")
    (case.shards / "x").rename(case.shards / f"rank_{b}")


def test_a_swap_that_nothing_can_tell_is_stated(case):
    layouts = {"w": Layout((8,), ((0,), ()))}
    whole = {"w": np.arange(64, dtype=np.float32).reshape(16, 4)}
    shutil.rmtree(case.shards)
    save_shards(case.shards, whole, layouts)
    save_strategy(case.strategy, layouts)
    assert "if their folders were swapped, nothing can tell" in case.merge().notices[0]
    assert json.loads(case.snapshot()["merge.json"])["swaps_undetectable_among_ranks"] == [list(range(8))]
    save_manifest(case.shards, case.strategy)
    assert case.merge().notices == ()


def test_a_folder_copied_over_another_is_refused(case):
    layouts = {"w": Layout((8,), ((0,), ()))}
    shutil.rmtree(case.shards)
    save_shards(case.shards, {"w": np.arange(64, dtype=np.float32).reshape(16, 4)}, layouts)
    save_strategy(case.strategy, layouts)
    shutil.copy(case.file(1), case.file(6))
    case.refused(
        LayoutError, r"\(rank 1\) and .*\(rank 6\) are equal, but the strategy gives these ranks different slices"
    )


def test_equal_slices_of_zeros_are_no_copies(case):
    layouts = {"w": Layout((8,), ((0,), ()))}
    shutil.rmtree(case.shards)
    save_shards(case.shards, {"w": np.zeros((16, 4), np.float32)}, layouts)
    save_strategy(case.strategy, layouts)
    assert read_checkpoint(case.merge().output)["w"].shape == (16, 4)


def test_a_slice_of_the_wrong_shape_is_refused(case):
    case.rewrite(6, **{"layer3.weight": np.zeros((2, 5), np.float32)})
    case.refused(LayoutError, r"parameter layer3.weight: .*Float32 \[2, 5\] on ranks \[6\]")


def test_a_slice_of_another_dtype_is_refused(case):
    case.rewrite(6, **{"layer3.weight": np.zeros((4, 5), np.float16)})
    case.refused(LayoutError, r"parameter layer3.weight: .*Float16 \[4, 5\] on ranks \[6\]")


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
    case.refused(MissingShard, r"knows 1 parameters that no rank has saved, such as layer3.weight")


def test_a_slice_that_only_a_replica_holds_is_taken_and_said(case):
    case.rewrite(2, **{"layer1.weight": None})
    merged = case.merge()
    assert np.array_equal(read_checkpoint(merged.output)["layer1.weight"], tensors()["layer1.weight"])
    (notice,) = merged.notices
    assert notice.startswith("1 tensors, such as layer1.weight, are missing on some ranks")


def test_a_slice_that_no_replica_holds_is_refused(case):
    for rank in (2, 3, 6, 7):
        case.rewrite(rank, **{"layer1.weight": None})
    case.refused(MissingShard, r"parameter layer1.weight: expected a slice on rank 2")


def test_a_missing_folder_is_refused(case):
    shutil.rmtree(case.shards / "rank_7")
    case.refused(MissingShard, r"shards over 8 ranks, there are folders of 7")


def test_a_gap_in_the_folders_is_refused(case):
    shutil.rmtree(case.shards / "rank_3")
    case.refused(MissingShard, r"folders of ranks \[3\] are missing")


def test_a_strategy_for_four_ranks_on_eight_is_refused(case):
    save_strategy(case.strategy, {name: Layout((4,), ((),) * len(LAYOUTS[name].tensor_map)) for name in LAYOUTS})
    case.refused(LayoutError, "shards over 4 ranks, there are folders of 8")


def test_a_missing_later_stage_is_refused(case):
    stage = {"a": Layout((4,), ((0,),))}
    save_strategy(case.strategy, stage)
    case.refused(LayoutError, "give the strategy of the run that saved them, all of its stages")


@pytest.mark.parametrize("length", [0, 1, 50, 699])
def test_a_truncated_file_is_refused(case, length):
    whole = case.file(1).read_bytes()
    case.file(1).write_bytes(whole[: min(length, len(whole) - 1)])
    case.refused(CorruptShard, r"rank_1")


def test_a_garbage_strategy_is_refused(case):
    case.strategy.write_bytes(os.urandom(64))
    case.refused(CheckpointError, "strategy.ckpt")


def test_files_that_change_while_they_are_read_are_refused(case, monkeypatch):
    genuine = MergeWork.prove

    def touched(self, tensors, and_digest_outputs):
        genuine(self, tensors, and_digest_outputs)
        case.rewrite(4)

    monkeypatch.setattr(MergeWork, "prove", touched)
    case.refused(CorruptShard, r"rank_4.*changed while it was read")


def test_a_symbolic_link_out_of_the_folder_is_refused(case):
    case.file(1).rename(case.path / "elsewhere.ckpt")
    case.file(1).symlink_to(case.path / "elsewhere.ckpt")
    case.refused(CorruptShard, "symbolic link that leads out")


def test_a_link_of_a_whole_rank_folder_out_of_the_folder_is_refused(case):
    (case.shards / "rank_1").rename(case.path / "elsewhere")
    (case.shards / "rank_1").symlink_to(case.path / "elsewhere")
    case.refused(CorruptShard, "symbolic link that leads out")


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


def test_whole_models_taken_for_slices_are_refused(case):
    save_shards(case.shards, tensors(), layouts={})
    case.refused(LayoutError, "did every rank save the whole model")
    merged = read_checkpoint(case.merge(integrated=True).output)
    assert merged["layer1.weight"].shape == (12, 8)


def test_two_merges_into_one_output_are_refused(case):
    with exclusive(case.output), pytest.raises(OutputError, match="is being written by another process"):
        case.merge()
    case.merge()
    assert sorted(case.snapshot()) == ["merge.json", "model.ckpt"]


def test_a_record_of_another_output_is_not_overwritten(case):
    case.output = case.output.with_name("other.ckpt")
    case.refused(OutputError, "is the record of 'model.ckpt'; give 'other.ckpt' a folder of its own")


def test_an_output_folder_that_cannot_be_written_is_refused(case):
    case.output.parent.rename(case.path / "kept")
    case.output.parent.write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        case.merge()


def test_no_strategy_at_all_is_refused(case):
    with pytest.raises(ConfigError, match="which strategy"):
        merge(MergeRequest(case.shards, (), case.output))


def test_a_selection_of_nothing_is_refused(case):
    case.refused(MissingShard, "none of the 6 tensors is selected", selection=Selection(include=("nothing*",)))


def test_a_device_that_is_full_from_the_start_is_refused(case, monkeypatch):
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    case.refused(OutputError, r"expected room for \d+ bytes, found no space left \(\d+ bytes free\)")


def test_a_device_that_is_full_half_way_is_refused(case, monkeypatch):
    genuine, written = os.pwrite, []

    def full(descriptor: int, content: bytes, offset: int) -> int:
        written.append(len(content))
        if len(written) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return genuine(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    case.refused(OutputError, "cannot be written at byte .*No space left on device; nothing was changed")


def test_a_device_that_fails_while_publishing_is_refused(case, monkeypatch):
    def failing(self: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", failing)
    case.refused(OutputError, "cannot be published")


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
    case.refused(MissingShard, r"rank_1.*there is no such checkpoint file")
