"""Random layouts: what is cut and merged is what it was, and so is what is cut, cut anew and cut back."""

import tempfile
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging import execute, proof
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.strategy import json_form, protobuf_form
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import OperatorStrategy, Strategy
from tests.shardline.checkpoint.sharding import save_strategy, slices_of

RANKS = 8
DTYPES = [np.float32, np.float16, np.int8, np.int64, np.bool_, np.complex64]


def factorisations(count: int, axes: int) -> list[tuple[int, ...]]:
    if axes == 1:
        return [(count,)]
    return [
        (size, *rest)
        for size in range(1, count + 1)
        if count % size == 0
        for rest in factorisations(count // size, axes - 1)
    ]


def device_matrices(ranks: int) -> list[tuple[int, ...]]:
    """All arrangements in up to four axes."""
    return [matrix for axes in range(1, 5) for matrix in factorisations(ranks, axes)]


@st.composite
def layouts(draw: st.DrawFn, dimensions: int, ranks: int = RANKS) -> Layout:
    """Any layout of a tensor with so many dimensions: lists of axes, permuted, repeated over what is not mapped."""
    matrix = draw(st.sampled_from(device_matrices(ranks)))
    axes = draw(st.permutations(range(len(matrix))))
    tensor_map: list[tuple[int, ...]] = [()] * dimensions
    for axis in axes[: draw(st.integers(0, len(axes)))] if dimensions else ():
        dimension = draw(st.integers(0, dimensions - 1))
        tensor_map[dimension] = (*tensor_map[dimension], axis)
    plain = Layout(matrix, tuple(tensor_map))
    group = plain.replica_groups()[0]
    if not dimensions or len(group) < 2 or not draw(st.booleans()):
        return plain
    parts = draw(st.sampled_from([size for size in range(2, len(group) + 1) if len(group) % size == 0]))
    size = -1 if parts == len(group) and draw(st.booleans()) else parts
    return Layout(matrix, tuple(tensor_map), optimizer_shard_step=group[1] - group[0], optimizer_shard_size=size)


@st.composite
def parameters(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], list[dict[str, Layout]]]:
    """A few tensors of any shape and type, and three layouts of each that all divide it."""
    whole, chosen = {}, [{}, {}, {}]
    for number in range(draw(st.integers(1, 3))):
        dimensions = draw(st.integers(0, 3))
        drawn = [draw(layouts(dimensions)) for _ in chosen]
        widths = [np.lcm.reduce([layout.shards()[d] for layout in drawn]) for d in range(dimensions)]
        shape = tuple(int(width) * draw(st.integers(1, 3)) for width in widths)
        dtype = draw(st.sampled_from(DTYPES))
        whole[f"p{number}"] = np.random.default_rng(prod(shape) + number).integers(0, 100, shape).astype(dtype)
        for kept, layout in zip(chosen, drawn, strict=True):
            kept[f"p{number}"] = layout
    return whole, chosen


def save_slices(directory: Path, whole: dict[str, np.ndarray], declared: dict[str, Layout]) -> None:
    for rank in range(RANKS):
        folder = directory / f"rank_{rank}"
        folder.mkdir(parents=True)
        write_checkpoint(slices_of(whole, declared, rank), folder / "net-1_1.ckpt")


@pytest.fixture
def _small_blocks(monkeypatch):
    """Blocks so small that every tensor has several, in the merge and, of another size, in the proof."""
    monkeypatch.setattr(execute, "BLOCK_BYTES", 48)
    monkeypatch.setattr(proof, "_WINDOW_BYTES", 80)


relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.usefixtures("_small_blocks")
@given(parameters(), st.sampled_from(["ckpt", "safetensors"]))
@relaxed
def test_what_is_cut_and_merged_is_what_it_was(drawn, suffix):
    whole, (declared, _, _) = drawn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        save_slices(path / "shards", whole, declared)
        strategy = save_strategy(path / "strategy.ckpt", declared)
        merged = merge(MergeRequest(path / "shards", (strategy,), path / "out" / f"model.{suffix}", workers=2))
        found = read_checkpoint(merged.output)
        assert set(found) == set(whole)
        assert all(np.array_equal(found[name], array) for name, array in whole.items())


def cut_anew_and_back(whole: dict[str, np.ndarray], declared: list[dict[str, Layout]], where: list[int]) -> None:
    """From eight ranks to two pipeline stages of eight (a parameter is `where`: 0, 1, or both), to eight and back."""
    if 2 not in where and len(set(where)) < 2:
        where = [2, *where[1:]]  # a stage without parameters is none
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        save_slices(path / "start", whole, declared[0])
        one, other = (save_strategy(path / f"{number}.ckpt", declared[number]) for number in (0, 2))
        stages = [
            {name: layout for (name, layout), place in zip(declared[1].items(), where, strict=True) if place in (n, 2)}
            for n in range(2)
        ]
        staged = tuple(save_strategy(path / f"stage{n}.ckpt", kept, stage=n) for n, kept in enumerate(stages))
        for source, origin, target, output in (
            ("start", (one,), staged, "stages"),
            ("stages", staged, (other,), "other"),
            ("other", (other,), (one,), "back"),
        ):
            reshard(ReshardRequest(target, path / output, path / source, origin, workers=1))
        for rank in range(RANKS):
            file = f"rank_{rank}/net-1_1.ckpt"
            assert set(read_checkpoint(path / "back" / file)) == set(whole)
            for name, array in slices_of(whole, declared[0], rank).items():
                assert np.array_equal(read_checkpoint(path / "back" / file)[name], array)


PLACES = st.lists(st.integers(0, 2), min_size=3, max_size=3)


@pytest.mark.usefixtures("_small_blocks")
@given(parameters(), PLACES)
@settings(relaxed, max_examples=12)
def test_what_is_cut_anew_and_back_is_what_it_was(drawn, where):
    cut_anew_and_back(*drawn, where[: len(drawn[0])])


@pytest.mark.soak
@pytest.mark.usefixtures("_small_blocks")
@given(parameters(), PLACES)
@settings(relaxed, max_examples=500)
def test_what_is_cut_anew_and_back_is_what_it_was_for_long(drawn, where):
    cut_anew_and_back(*drawn, where[: len(drawn[0])])


@given(st.data(), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_the_two_geometries_agree(data, dimensions):
    layout = data.draw(layouts(dimensions, ranks=data.draw(st.sampled_from([1, 2, 6, 8, 12, 16]))))
    shape = tuple(parts * data.draw(st.integers(1, 4)) for parts in layout.shards())
    bounds = proof._bounds(layout, shape)
    for rank in range(layout.world_size):
        expected = [[part.start, part.stop] for part in layout.slice_of(rank, shape)]
        assert bounds[rank].tolist() == [expected]


@given(st.data(), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_slices_cover_every_element_equally_often(data, dimensions):
    layout = data.draw(layouts(dimensions))
    shape = layout.full_shape((2,) * dimensions)
    count = np.zeros(shape, dtype=int)
    for rank in range(layout.world_size):
        count[layout.slice_of(rank, shape)] += 1
    assert (count == len(layout.replica_groups()[0])).all()


@given(st.data(), st.sampled_from([".ckpt", ".json"]))
@settings(max_examples=100, deadline=None)
def test_any_layout_survives_a_strategy_file(data, suffix):
    declared = {f"p{number}": data.draw(layouts(data.draw(st.integers(0, 3)))) for number in range(3)}
    codec = json_form if suffix == ".json" else protobuf_form
    strategy = Strategy(0, {"Add": OperatorStrategy(0, ((1, 2),))}, declared)
    decoded = codec.decode(codec.encode(strategy), Path("s"))
    assert codec.encode(decoded) == codec.encode(strategy)
    for name, layout in declared.items():
        assert np.array_equal(decoded.layouts[name].slice_indices(), layout.slice_indices())
