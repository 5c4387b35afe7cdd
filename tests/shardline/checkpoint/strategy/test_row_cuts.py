"""Dimension 0 cut by hand or interleaved. The slices are made here, from MindSpore's definition and by NumPy alone."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardline.base.errors import LayoutError, ProofError, ReplicaMismatch
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging import execute, proof
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.shards.held_slices import held_slices
from shardline.checkpoint.strategy import layout as layout_module
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.row_cuts import RowCut, cut_by_hand
from tests.shardline.checkpoint.sharding import save_strategy

Cut = tuple[Layout, tuple[int, ...], Callable[[np.ndarray], list[np.ndarray]]]
RANKS = 4
HALVES = Layout((2,), ((0,), ()))
WHOLE = np.arange(12, dtype=np.float32).reshape(6, 2)


def of_fields(whole: np.ndarray, field: int, parts: int) -> list[np.ndarray]:
    """The parts of `field` interleaved tensors, each cut by itself: `_reshape_param_data_with_weight`, backwards."""
    pieces = whole.reshape(field, parts, -1, *whole.shape[1:])
    return [pieces[:, part].reshape(-1, *whole.shape[1:]) for part in range(parts)]


def by_hand(whole: np.ndarray, heights: list[int]) -> list[np.ndarray]:
    return np.split(whole, np.cumsum(heights)[:-1])


@st.composite
def cuts(draw: st.DrawFn, rows: int | None = None) -> Cut:
    """A layout of `RANKS` ranks that interleaves or cuts by hand, a shape, and what makes every rank's slice."""
    matrix = draw(st.sampled_from([(4,), (2, 2), (4, 1), (1, 4), (2, 1, 2)]))
    axis = draw(st.integers(0, len(matrix) - 1))
    parts, inner = matrix[-1 - axis], draw(st.sampled_from([(), (3,), (2, 3)]))
    layout = Layout(matrix, ((axis,), *((),) * len(inner)))
    places = np.arange(RANKS).reshape(matrix)
    at = [int(np.argwhere(places == rank)[0][len(matrix) - 1 - axis]) for rank in range(RANKS)]
    if draw(st.booleans()):
        height = rows or 24
        field = draw(st.sampled_from([n for n in (1, 2, 3, 6) if height % (n * parts) == 0]))
        layout = replace(layout, field=field)
        return layout, (height, *inner), lambda whole: [of_fields(whole, field, parts)[part] for part in at]
    splits = sorted(draw(st.integers(0, rows)) for _ in range(parts - 1)) if rows else []
    heights = (
        [int(n) for n in np.diff([0, *splits, rows])]
        if rows
        else draw(st.lists(st.integers(0, 7), min_size=parts, max_size=parts))
    )
    layout = replace(layout, param_split_shape=tuple(heights))
    if draw(st.booleans()):
        layout = replace(layout, indices_offset=tuple(int(n) for n in np.cumsum(heights) - heights))
    return layout, (sum(heights), *inner), lambda whole: [by_hand(whole, heights)[part] for part in at]


def save(directory: Path, slices: list[np.ndarray]) -> None:
    for rank, part in enumerate(slices):
        (directory / f"rank_{rank}").mkdir(parents=True)
        write_checkpoint({"w": part}, directory / f"rank_{rank}" / "net-1_1.ckpt")


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, prod(shape) + 1, dtype=np.float32).reshape(shape)


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(execute, "BLOCK_BYTES", 20)
    monkeypatch.setattr(proof, "_WINDOW_BYTES", 36)


relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("_small_blocks")
@given(cuts(), st.sampled_from(["json", "ckpt"]))
@relaxed
def test_what_is_cut_and_merged_is_what_it_was(cut, form):
    layout, shape, slices = cut
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        save(path / "shards", slices(numbered(shape)))
        strategy = save_strategy(path / f"s.{form}", {"w": layout})
        merged = merge(MergeRequest(path / "shards", (strategy,), path / "out" / "m.ckpt", workers=1))
        assert np.array_equal(read_checkpoint(merged.output)["w"], numbered(shape))


@pytest.mark.usefixtures("_small_blocks")
@given(cuts(rows=24), cuts(rows=24))
@settings(relaxed, max_examples=40)
def test_what_is_cut_anew_is_what_its_new_cut_says(before, after):
    (old, shape, slices), (new, other_shape, new_slices) = before, after
    if shape != other_shape:
        new = replace(new, tensor_map=(new.tensor_map[0], *((),) * (len(shape) - 1)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        save(path / "shards", slices(numbered(shape)))
        origin, target = save_strategy(path / "old.ckpt", {"w": old}), save_strategy(path / "new.ckpt", {"w": new})
        reshard(ReshardRequest((target,), path / "out", path / "shards", (origin,), workers=1))
        for rank, part in enumerate(new_slices(numbered(shape))):
            found = read_checkpoint(path / "out" / f"rank_{rank}" / "net-1_1.ckpt")["w"]
            assert np.array_equal(found, part)


@given(cuts())
@relaxed
def test_a_rank_reads_its_slice_of_an_integrated_file(cut):
    layout, shape, slices = cut
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint({"w": numbered(shape)}, Path(folder) / "m.ckpt")
        for rank, part in enumerate(slices(numbered(shape))):
            assert np.array_equal(read_checkpoint(Path(folder) / "m.ckpt").slice("w", layout, rank), part)
            assert layout.slice_shape(shape, rank) == part.shape


@given(cuts())
@settings(max_examples=300, deadline=None)
def test_the_two_geometries_agree(cut):
    layout, shape, _ = cut
    bounds = proof._bounds(layout, shape)
    for rank in range(RANKS):
        boxes = layout.boxes_of(rank, shape)
        expected = [[[start, start + size] for start, size in zip(box.starts, box.sizes, strict=True)] for box in boxes]
        assert bounds[rank].tolist() == expected


def merged(path: Path, layout: Layout, slices: list[np.ndarray]) -> np.ndarray:
    save(path / "shards", slices)
    strategy = save_strategy(path / "s.ckpt", {"w": layout})
    return read_checkpoint(merge(MergeRequest(path / "shards", (strategy,), path / "out" / "m.ckpt")).output)["w"]


def test_an_entry_for_each_slice_where_columns_are_cut_too(tmp_path):
    layout = Layout((2, 2), ((1,), (0,)), param_split_shape=(4, 4, 2, 2))
    rows = by_hand(WHOLE, [4, 2])
    slices = [part[:, [column]] for part in rows for column in range(2)]
    assert np.array_equal(merged(tmp_path, layout, slices), WHOLE)


@pytest.mark.parametrize(("matrix", "tensor_map"), [((2, 1), ((1,), (0,))), ((2,), ((0,), ()))])
def test_a_split_shape_that_is_the_tensors_shape_means_nothing(tmp_path, matrix, tensor_map):
    layout = Layout(matrix, tensor_map, param_split_shape=WHOLE.shape)
    assert np.array_equal(merged(tmp_path, layout, np.split(WHOLE, 2)), WHOLE)


def test_a_split_shape_that_is_the_shape_of_equal_parts_of_one_rank_is_still_a_cut_by_hand(tmp_path):
    # Two parts as high as the second rank's slice would make a tensor of the shape (4, 2).
    layout = replace(HALVES, param_split_shape=(4, 2))
    with pytest.raises(LayoutError, match=r"gives rank 0 a slice of shape \[4, 2\], but .*rank_0.* has \[2, 2\]"):
        merged(tmp_path, layout, by_hand(WHOLE, [4, 2])[::-1])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"field": 5}, "cannot be cut into 5 fields of 2 equal parts"),
        ({"field": -1}, "expected a field between 0 and"),
        ({"field": 2**20}, "expected a field between 0 and"),
        ({"field": 3, "tensor_map": ((), (0,))}, "has a known meaning only where dimension 0 alone is cut"),
        ({"param_split_shape": (4, 2)}, r"gives rank 0 a slice of shape \[4, 2\]"),
        ({"param_split_shape": (3, 3, 1)}, "expected a param_split_shape of 2 entries, one a slice, found 3"),
        ({"param_split_shape": (-3, 9)}, "impossible"),
        ({"param_split_shape": (3, 3), "field": 3}, "together with field"),
        ({"param_split_shape": (3, 3), "indices_offset": (0, 4)}, r"begin at \[0, 3\], but its indices_offset is"),
        ({"indices_offset": (3, 0)}, r"begin at \[0, 3\], but its indices_offset is \[3, 0\]"),
    ],
)
def test_what_contradicts_the_slices_or_has_no_known_meaning_is_refused(tmp_path, changes, problem):
    with pytest.raises(LayoutError, match=problem):
        merged(tmp_path, replace(HALVES, **changes), np.split(WHOLE, 2))
    assert not list(tmp_path.glob("out/*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"device_matrix": (2, 2), "tensor_map": ((1,), (0,)), "field": 3}, "dimension 0 alone is cut"),
        ({"device_matrix": (2, 2), "tensor_map": ((1, 0), ()), "field": 3}, "along one axis"),
        (
            {
                "device_matrix": (2, 2),
                "tensor_map": ((1,), ()),
                "field": 3,
                "optimizer_shard_size": 2,
                "optimizer_shard_step": 1,
            },
            "without optimizer sharding",
        ),
    ],
)
def test_a_field_where_nobody_says_what_it_means_is_refused(arguments, problem):
    with pytest.raises(LayoutError, match=problem):
        Layout(**arguments)


def test_a_replica_of_a_field_that_differs_is_found(tmp_path):
    layout = Layout((2, 2), ((1,), ()), field=3)
    first, second = of_fields(WHOLE, 3, 2)
    changed = second.copy()
    changed[-1, -1] += 1
    with pytest.raises(ReplicaMismatch, match="rank 3"):
        merged(tmp_path, layout, [first, first, second, changed])


def test_one_range_is_not_claimed_for_what_has_several():
    with pytest.raises(LayoutError, match="rank 1 holds 3 separate parts"):
        replace(HALVES, field=3).slice_of(1, (6, 2))
    with pytest.raises(LayoutError, match="slices of different shapes"):
        replace(HALVES, param_split_shape=(4, 2)).slice_shape((6, 2))


@pytest.mark.parametrize(("heights", "doubts"), [((4, 2), 0), ((3, 3), 1)])
def test_folders_of_slices_of_different_heights_cannot_be_swapped_unseen(tmp_path, heights, doubts):
    save(tmp_path / "shards", by_hand(WHOLE, list(heights)))
    strategy = save_strategy(tmp_path / "s.ckpt", {"w": replace(HALVES, param_split_shape=heights)})
    done = merge(MergeRequest(tmp_path / "shards", (strategy,), tmp_path / "out" / "m.ckpt"))
    assert sum("swapped" in notice for notice in done.notices) == doubts


@pytest.mark.parametrize("changes", [{"field": 3}, {"param_split_shape": (3, 3)}])
def test_a_folder_copied_over_another_is_found(tmp_path, changes):
    whole = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    with pytest.raises(LayoutError, match="was one copied over the other"):
        merged(tmp_path, replace(HALVES, **changes), [whole[:3], whole[:3]])


@pytest.fixture
def _nothing_remembered():
    """Slices are worked out once for each layout: right ones from before, or wrong ones for what follows."""
    held_slices.cache_clear()
    yield
    held_slices.cache_clear()


@pytest.mark.usefixtures("_nothing_remembered")
def test_a_mistake_in_the_geometry_of_fields_is_found_by_the_proof(tmp_path, monkeypatch):
    def as_if_without_fields(rows: int, field: int, parts: int, name: str) -> RowCut:
        return cut_by_hand([rows // parts] * parts, [parts], name)

    monkeypatch.setattr(layout_module, "interleaved", as_if_without_fields)
    with pytest.raises((ProofError, ReplicaMismatch), match="parameter w"):
        merged(tmp_path, replace(HALVES, field=3), of_fields(WHOLE, 3, 2))
    assert not list(tmp_path.glob("out/*.ckpt"))


@pytest.mark.usefixtures("_nothing_remembered")
def test_a_mistake_in_the_geometry_of_cuts_by_hand_is_found_by_the_proof(tmp_path, monkeypatch):
    def in_reverse(split: tuple[int, ...], shards: tuple[int, ...], name: str) -> RowCut:
        cut = cut_by_hand(split, shards, name)
        return RowCut(int(cut.sizes.sum()) - cut.starts - cut.sizes, cut.sizes)

    monkeypatch.setattr(layout_module, "cut_by_hand", in_reverse)
    with pytest.raises((ProofError, ReplicaMismatch), match="parameter w"):
        merged(tmp_path, replace(HALVES, param_split_shape=(4, 2)), by_hand(WHOLE, [4, 2]))
