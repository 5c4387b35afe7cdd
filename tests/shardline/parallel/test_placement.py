"""Movements, played through for all ranks with NumPy: whatever the placements, every rank ends with what it wants."""

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardline.checkpoint.strategy.layout import Layout, replicated
from shardline.parallel.placement import Placement, movement, whole

SHAPE = (24, 24)


@st.composite
def layouts(draw) -> Layout:
    matrix = draw(st.sampled_from([(8,), (2, 4), (4, 2), (2, 2, 2)]))
    axes = draw(st.permutations(range(len(matrix))))
    cut = draw(st.integers(0, len(axes)))
    dimensions: list[tuple[int, ...]] = [(), ()]
    for axis in axes[:cut]:
        dimensions[draw(st.integers(0, 1))] += (axis,)
    return Layout(matrix, tuple(dimensions))


@st.composite
def placements(draw) -> Placement:
    layout = draw(layouts())
    used = {axis for axes in layout.tensor_map for axis in axes}
    free = [axis for axis in range(len(layout.device_matrix)) if axis not in used]
    return Placement(SHAPE, layout, tuple(draw(st.sets(st.sampled_from(free)))) if free else ())


def terms(placement: Placement, value: np.ndarray) -> list[np.ndarray]:
    """Every rank's part; along partial axes, different terms that add up to it."""
    layout = placement.layout
    last = len(layout.device_matrix) - 1
    sizes = [layout.device_matrix[last - axis] for axis in placement.partial]
    parts = []
    for rank in range(layout.world_size):
        coordinates = np.unravel_index(rank, layout.device_matrix)
        number = int(sum(coordinates[last - axis] * 10**i for i, axis in enumerate(placement.partial)))
        share = value * (number + 1)
        parts.append(share[layout.slice_of(rank, SHAPE)])
    totals = sum_of_terms(placement, parts)
    return [part * (value[layout.slice_of(r, SHAPE)] / totals[r]) for r, part in enumerate(parts)] if sizes else parts


def sum_of_terms(placement: Placement, parts: list[np.ndarray]) -> list[np.ndarray]:
    """For every rank, the sum over the ranks that differ from it along partial axes only."""
    layout = placement.layout
    last = len(layout.device_matrix) - 1
    fixed = [axis for axis in range(last + 1) if last - axis not in placement.partial]
    keys = [tuple(np.unravel_index(rank, layout.device_matrix)[axis] for axis in fixed) for rank in range(len(parts))]
    return [sum(part for part, other in zip(parts, keys, strict=True) if other == key) for key in keys]


def moved(source: Placement, target: Layout, parts: list[np.ndarray]) -> list[np.ndarray]:
    steps = [movement(source, target, rank) for rank in range(len(parts))]
    padded = [np.pad(part, step.padding) if step.padding else part for step, part in zip(steps, parts, strict=True)]
    summed = [sum(padded[r] for r in step.group) if step.group else padded[rank] for rank, step in enumerate(steps)]
    return [part[step.region] if step.region else part for step, part in zip(steps, summed, strict=True)]


@given(placements(), layouts())
def test_every_rank_gets_its_part_of_the_sum(source, target):
    value = np.random.default_rng(0).uniform(1, 2, SHAPE)
    for rank, part in enumerate(moved(source, target, terms(source, value))):
        np.testing.assert_allclose(part, value[target.slice_of(rank, SHAPE)], rtol=1e-12)


@given(placements(), layouts())
def test_groups_are_the_same_for_all_their_members(source, target):
    groups = [movement(source, target, rank).group for rank in range(8)]
    for rank, group in enumerate(groups):
        assert all(groups[other] == group for other in group)
        assert not group or rank in group


@given(layouts())
def test_staying_is_nothing_to_do(layout):
    assert movement(Placement(SHAPE, layout), layout, rank=3).is_nothing


@given(layouts())
def test_cutting_what_is_whole_needs_no_communication(layout):
    assert movement(whole(SHAPE, 8), layout, rank=5).group == ()


def test_a_partial_sum_that_stays_in_place_is_summed_along_its_axes_only():
    source = Placement(SHAPE, Layout((2, 2, 2), ((2,), (0,))), partial=(1,))
    steps = movement(source, source.layout, rank=5)
    assert (steps.padding, steps.group, steps.region) == (None, (5, 7), None)


def test_gathering_covers_every_part_once_not_every_replica():
    source = Placement(SHAPE, Layout((2, 2, 2), ((2,), (1,))))
    steps = movement(source, replicated(8, 2), rank=3)
    assert steps.group == (1, 3, 5, 7)
    assert steps.padding == ((0, 12), (12, 0))
    assert prod(source.layout.shards()) == len(steps.group)
