"""What a rank reads of a shard set is its slice of the whole, whoever saved it; and it reads no more than it needs."""

import tempfile
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.base.errors import LayoutError
from shardline.checkpoint.formats.checkpoint_file import Checkpoint, write_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import Layout
from shardline.training.redundancy import saved_by
from shardline.training.resharding import open_set
from tests.shardline.checkpoint.merging.test_properties import layouts
from tests.shardline.checkpoint.sharding import LAYOUTS, save_manifest, save_shards, save_strategy, slices_of, tensors

FOUR = {
    "layer1.weight": Layout((2, 2), ((0,), (1,))),
    "layer1.bias": Layout((4,), ((),), optimizer_shard_step=1, optimizer_shard_size=2),
    "layer3.weight": Layout((4,), ((0,), ())),
    "moment1.layer1.weight": Layout((2, 2), ((1, 0), ())),
}


def saved(folder: Path, whole, declared) -> ShardSet:
    save_shards(folder / "shards", whole, declared)
    return save_manifest(folder / "shards", save_strategy(folder / "strategy", declared))


def check(folder: Path, shard_set: ShardSet, whole, wanted, world_size: int) -> None:
    opened = open_set(folder / "shards", shard_set, folder / "strategy")
    for rank in range(world_size):
        found, expected = dict(opened.slices_of(rank, wanted)), slices_of(whole, wanted, rank)
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array, err_msg=f"{name} on rank {rank}")


@st.composite
def resharded(draw):
    """A few tensors, their layouts on eight ranks, and on some other number of ranks; all divide the tensors."""
    world_size = draw(st.sampled_from([1, 2, 4, 6, 8, 16]))
    whole, before, after = {"global_step": np.array(7, np.int32)}, {}, {}
    for number in range(draw(st.integers(1, 3))):
        dimensions = draw(st.integers(1, 3))
        before[f"p{number}"] = old = draw(layouts(dimensions))
        after[f"p{number}"] = new = draw(layouts(dimensions, ranks=world_size))
        widths = (np.lcm(a, b) for a, b in zip(old.shards(), new.shards(), strict=True))
        shape = tuple(int(width) * draw(st.integers(1, 2)) for width in widths)
        whole[f"p{number}"] = np.arange(prod(shape), dtype=np.float32).reshape(shape) + number
    return whole, before, after, world_size


@given(resharded())
@settings(max_examples=40)
def test_any_layout_on_any_number_of_ranks_is_read_from_any_other(drawn):
    whole, before, after, world_size = drawn
    with tempfile.TemporaryDirectory() as name:
        check(Path(name), saved(Path(name), whole, before), whole, after, world_size)


@given(resharded())
@settings(max_examples=25)
def test_slices_that_one_holder_saved_are_found_by_all(drawn):
    whole, before, after, world_size = drawn
    sizes = {name: array.nbytes // prod(before[name].shards()) for name, array in whole.items() if name in before}
    sizes["global_step"] = 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rank in range(8):
            kept = saved_by(rank, sizes, before)
            held = slices_of(whole, before, rank)
            (folder / "shards" / f"rank_{rank}").mkdir(parents=True)
            file = folder / "shards" / f"rank_{rank}" / "checkpoint-1_20.ckpt"
            write_checkpoint({name: held[name] for name in held if name in kept}, file)
        shard_set = save_manifest(folder / "shards", save_strategy(folder / "strategy", before))
        check(folder, shard_set, whole, after, world_size)


def test_whole_files_are_cut(tmp_path):
    whole = tensors()
    save_shards(tmp_path / "shards", whole, {})
    shard_set = save_manifest(tmp_path / "shards", save_strategy(tmp_path / "strategy"), integrated=True)
    check(tmp_path, shard_set, whole, FOUR, 4)


def reads(monkeypatch) -> list[tuple[str, int]]:
    """The folder and the number of elements of every read from now on."""
    read, original = [], Checkpoint.read

    def noting(file, name, box):
        read.append((file.index.path.parent.name, prod(box.sizes)))
        return original(file, name, box)

    monkeypatch.setattr(Checkpoint, "read", noting)
    return read


def test_on_unchanged_ranks_each_reads_its_own_file_alone(tmp_path, monkeypatch):
    shard_set = saved(tmp_path, tensors(), LAYOUTS)
    read = reads(monkeypatch)
    dict(open_set(tmp_path / "shards", shard_set, tmp_path / "strategy").slices_of(5, LAYOUTS))
    assert {folder for folder, _ in read} == {"rank_5"}


def test_a_rank_reads_as_much_as_it_holds_and_no_more(tmp_path, monkeypatch):
    shard_set = saved(tmp_path, tensors(), LAYOUTS)
    read = reads(monkeypatch)
    found = dict(open_set(tmp_path / "shards", shard_set, tmp_path / "strategy").slices_of(1, FOUR))
    assert sum(size for _, size in read) == sum(array.size for array in found.values())


def test_a_tensor_that_does_not_divide_is_named(tmp_path):
    shard_set = saved(tmp_path, tensors(), LAYOUTS)
    wanted = FOUR | {"layer1.bias": Layout((4,), ((0,),))}
    with pytest.raises(LayoutError, match=r"shape \[6\] cannot be cut into 4"):
        dict(open_set(tmp_path / "shards", shard_set, tmp_path / "strategy").slices_of(0, wanted))
