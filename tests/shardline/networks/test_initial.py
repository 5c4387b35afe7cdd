"""Initial values do not depend on who holds which part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.networks.initial import uniform_slice

SHAPE = (30, 7)


def drawn(*region: slice, shape=SHAPE, name="layer.weight", seed=1) -> np.ndarray:
    return uniform_slice(name, shape, region, fan_in=25, seed=seed)


WHOLE = drawn(slice(0, 30), slice(0, 7))


@given(st.integers(0, 29), st.integers(1, 30), st.integers(0, 6), st.integers(1, 7))
def test_every_slice_is_a_part_of_one_whole(row, rows, column, columns):
    region = slice(row, min(row + rows, 30)), slice(column, min(column + columns, 7))
    np.testing.assert_array_equal(drawn(*region), WHOLE[region])


@pytest.mark.parametrize("begin", [0, 3, 4, 9])
def test_slices_of_a_bias_are_parts_of_it_too(begin):
    whole = drawn(slice(0, 10), shape=(10,))
    np.testing.assert_array_equal(drawn(slice(begin, 10), shape=(10,)), whole[begin:])


def test_values_are_uniform_within_the_bound_of_nn_dense():
    assert WHOLE.dtype == np.float32
    assert np.abs(WHOLE).max() <= 1 / 5
    many = drawn(slice(0, 1000), slice(0, 100), shape=(1000, 100))
    assert abs(many.mean()) < 0.002
    assert abs(many.std() - 0.2 / np.sqrt(3)) < 0.002


def test_parameters_and_seeds_differ():
    region = slice(0, 30), slice(0, 7)
    assert not np.array_equal(drawn(*region, name="other.weight"), WHOLE)
    assert not np.array_equal(drawn(*region, seed=2), WHOLE)
