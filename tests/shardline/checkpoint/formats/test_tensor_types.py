import numpy as np
import pytest

from shardline.checkpoint.formats.small_floats import VALUES
from shardline.checkpoint.formats.tensor_types import (
    BFLOAT16,
    BY_NAME,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    bits_of,
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
    assert type_of(np.zeros(1, dtype="datetime64[s]")) is None


@pytest.mark.parametrize("name", ["Complex64", "Complex128"])
@pytest.mark.parametrize("value", [np.nan, complex(0, np.inf), complex(-np.inf, 0)])
def test_either_half_of_a_complex_number_can_be_not_finite(name, value):
    values = np.full(9, 3 + 4j, dtype=BY_NAME[name].storage)
    assert not has_non_finite(values, BY_NAME[name])
    values[7] = value
    assert has_non_finite(values, BY_NAME[name])


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("Float8E4M3FN", {0x7F, 0xFF}),
        ("Float8E5M2", {*range(0x7C, 0x80), *range(0xFC, 0x100)}),
        ("Float8E8M0", {0xFF}),
        ("Float8E4M3FNUZ", {0x80}),
        ("Float8E5M2FNUZ", {0x80}),
        ("HiFloat8", {0x80, 0x6F, 0xEF}),
    ],
)
def test_eight_bits_are_not_finite_in_these_codes(name, codes):
    every = np.arange(256, dtype=np.uint8)
    found = {int(code) for code in every if has_non_finite(every[code : code + 1], BY_NAME[name])}
    assert found == codes


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("Float8E4M3FN", {0x00: 0.0, 0x38: 1.0, 0xC0: -2.0, 0x7E: 448.0, 0x01: 2.0**-9, 0x08: 2.0**-6}),
        ("Float8E5M2", {0x3C: 1.0, 0xC0: -2.0, 0x7B: 57344.0, 0x01: 2.0**-16}),
        ("Float8E8M0", {0x00: 2.0**-127, 0x7F: 1.0, 0xFE: 2.0**127}),
        ("Float8E4M3FNUZ", {0x40: 1.0, 0x7F: 240.0, 0x01: 2.0**-10}),
        ("Float8E5M2FNUZ", {0x40: 1.0, 0x7F: 57344.0, 0x01: 2.0**-17}),
        ("HiFloat8", {0x08: 1.0, 0x10: 2.0, 0x14: 3.0, 0x22: 5.0, 0x26: 7.0, 0x6E: 2.0**15, 0x01: 2.0**-22}),
    ],
)
def test_eight_bits_are_worth_this(name, codes):
    elements = np.array(list(codes), dtype=np.uint8)
    assert cast(elements, BY_NAME[name], FLOAT32).tolist() == list(codes.values())
    assert VALUES[name].dtype == np.float32


@pytest.mark.parametrize("name", BY_NAME)
def test_elements_of_every_type_compare_bit_by_bit(name):
    storage = BY_NAME[name].storage
    zero = np.zeros((2, 3), dtype=storage)
    other = zero.copy()
    other[1:, 2:].view(np.uint8)[0, -1] = 1
    unequal = bits_of(zero[:, 1:]) != bits_of(other[:, 1:])
    assert unequal.tolist() == [[False, False], [False, True]]
    not_a_number = np.frombuffer(b"\xff" * storage.itemsize, dtype=storage)
    assert (bits_of(not_a_number) == bits_of(not_a_number)).all()


def test_what_is_cast_is_what_has_a_value_of_its_own():
    assert {name for name, each in BY_NAME.items() if each.is_floating and not each.is_castable} == {
        *("Complex64", "Complex128", "Float6E2M3", "Float6E3M2", "Float4E2M1")
    }
