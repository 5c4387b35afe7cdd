import numpy as np
import pytest

from shardline.checkpoint.formats.tensor_types import (
    BFLOAT16,
    BY_NAME,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    cast,
    has_non_finite,
    type_of,
)

FLOATING = [BFLOAT16, FLOAT16, FLOAT32, FLOAT64]


@pytest.mark.parametrize("tensor_type", FLOATING)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 70_000, 99_999])
def test_one_non_finite_element_is_found_wherever_it_is(tensor_type, value, place):
    values = np.full(100_000, 3.0, dtype=np.float32)
    assert not has_non_finite(cast(values, FLOAT32, tensor_type), tensor_type)
    values[place] = value
    assert has_non_finite(cast(values, FLOAT32, tensor_type), tensor_type)


@pytest.mark.parametrize("tensor_type", FLOATING)
def test_the_largest_finite_elements_are_finite(tensor_type):
    largest = {"BFloat16": 0x7F7F, "Float16": 0x7BFF, "Float32": 0x7F7FFFFF, "Float64": 0x7FEFFFFFFFFFFFFF}
    bits = np.array([largest[tensor_type.name]], dtype=f"<u{tensor_type.itemsize}")
    assert not has_non_finite(bits.view(tensor_type.storage), tensor_type)


def test_integers_are_always_finite():
    assert not has_non_finite(np.array([-1], dtype=np.int32), BY_NAME["Int32"])


def test_a_double_is_rounded_to_bfloat16_once():
    # Above the middle of two bfloat16 numbers, by less than float32 can say: rounding twice would go down, to even.
    above = np.array([1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40)])
    assert cast(above, FLOAT64, BFLOAT16).tolist() == [0x3F81, 0xBF81]
    below = np.array([1 + 2**-7 + 2**-8 - 2**-40])
    assert cast(below, FLOAT64, BFLOAT16).tolist() == [0x3F81]


@pytest.mark.parametrize("source", [FLOAT16, FLOAT32, FLOAT64])
def test_non_finite_elements_survive_bfloat16(source):
    values = np.array([np.inf, -np.inf, np.nan], dtype=source.storage)
    back = cast(cast(values, source, BFLOAT16), BFLOAT16, FLOAT32)
    assert back[0] == np.inf
    assert back[1] == -np.inf
    assert np.isnan(back[2])


def test_every_bfloat16_survives_float32_and_back():
    bits = np.arange(2**16, dtype="<u2")
    single = cast(bits, BFLOAT16, FLOAT32)
    numbers = ~np.isnan(single)
    assert np.array_equal(cast(single, FLOAT32, BFLOAT16)[numbers], bits[numbers])


def test_big_endian_arrays_have_their_types():
    assert type_of(np.zeros(1, dtype=">f4")) is FLOAT32
    assert type_of(np.zeros(1, dtype=np.complex64)) is None
