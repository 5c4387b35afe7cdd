import numpy as np
import pytest

from shardline.base.errors import LayoutError
from shardline.checkpoint.strategy.layout import Layout, replicated


def slices_of(layout: Layout, full: np.ndarray) -> list[np.ndarray]:
    return [full[layout.slice_of(rank, full.shape)] for rank in range(layout.world_size)]


def test_dimensions_are_cut_along_the_mapped_axes_counted_from_the_right():
    layout = Layout((2, 2, 2), ((1,), ()))
    full = np.arange(8).reshape(4, 2)
    halves = [int(part[0, 0]) for part in slices_of(layout, full)]
    assert layout.shards() == (2, 1)
    assert halves == [0, 0, 4, 4, 0, 0, 4, 4]


def test_an_unmapped_layout_is_whole_on_every_rank():
    layout = replicated(4, 2)
    assert layout.slice_of(3, (5, 7)) == (slice(0, 5), slice(0, 7))
    assert layout.replica_groups() == ((0, 1, 2, 3),)


def test_several_axes_on_one_dimension_are_a_mixed_radix_with_the_first_most_significant():
    layout = Layout((2, 3), ((0, 1),))
    parts = [int(part[0]) for part in slices_of(layout, np.arange(6))]
    assert parts == [0, 2, 4, 1, 3, 5]


def test_optimizer_sharding_cuts_the_slice_among_the_ranks_that_would_share_it():
    layout = Layout((2, 2, 2), ((1,), ()), optimizer_shard_step=1, optimizer_shard_size=-1)
    starts = [layout.slice_of(rank, (16, 3))[0].start for rank in range(8)]
    assert layout.shards() == (8, 1)
    assert starts == [0, 2, 8, 10, 4, 6, 12, 14]


def test_partial_optimizer_sharding_repeats_its_parts_within_the_group():
    layout = Layout((8,), ((),), optimizer_shard_step=1, optimizer_shard_size=2)
    assert [layout.slice_of(rank, (4,))[0].start for rank in range(8)] == [0, 2] * 4


def test_a_permuted_map_with_optimizer_sharding_gives_every_element_to_one_group():
    layout = Layout((2, 2, 2), ((0,), (1,)), optimizer_shard_step=4, optimizer_shard_size=2)
    full = np.arange(32).reshape(8, 4)
    merged = np.full_like(full, -1)
    for rank in range(8):
        part = layout.slice_of(rank, full.shape)
        merged[part] = full[part]
    assert np.array_equal(merged, full)
    assert len(layout.replica_groups()) == 8


def test_full_shape_and_slice_shape_are_inverse():
    layout = Layout((2, 4), ((1,), (0,)))
    assert layout.slice_shape((6, 12)) == (3, 3)
    assert layout.full_shape((3, 3)) == (6, 12)


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(LayoutError, match="dimension 0 of a tensor of shape \\[7\\] cannot be cut into 2 equal parts"):
        Layout((2,), ((0,),)).slice_of(0, (7,))


def test_a_tensor_of_another_number_of_dimensions_is_refused():
    with pytest.raises(LayoutError, match="maps 1"):
        Layout((2,), ((0,),)).full_shape((2, 2))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"device_matrix": (), "tensor_map": ()}, "expected one or more sizes"),
        ({"device_matrix": (0, 2), "tensor_map": ()}, "expected one or more sizes"),
        ({"device_matrix": (2,), "tensor_map": ((1,),)}, "expected axes between 0 and 0"),
        ({"device_matrix": (2,), "tensor_map": ((0,), (0,))}, "an axis is used twice"),
        ({"device_matrix": (8,), "tensor_map": ((),), "optimizer_shard_size": 3}, "cannot share"),
        ({"device_matrix": (8,), "tensor_map": ((),), "optimizer_shard_size": -2}, "cannot share"),
        ({"device_matrix": (8,), "tensor_map": (), "optimizer_shard_size": 2}, "a scalar"),
        (
            {"device_matrix": (8,), "tensor_map": ((),), "optimizer_shard_size": 2, "optimizer_shard_step": 4},
            "has been altered",
        ),
        ({"device_matrix": (2**20, 2**20), "tensor_map": ()}, "more than 131072"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(arguments, problem):
    with pytest.raises(LayoutError, match=problem):
        Layout(**arguments)


def test_a_rank_outside_the_layout_is_refused():
    with pytest.raises(LayoutError, match="rank 8"):
        replicated(8, 1).slice_of(8, (2,))
