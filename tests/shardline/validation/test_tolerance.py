"""The tolerances by network, precision and device."""

from __future__ import annotations

import numpy as np
import pytest

from shardline.networks.operators import Operator
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig
from shardline.validation.tolerance import tolerance_of


def operators(**parameters: object) -> tuple[Operator, ...]:
    config = RunConfig(world_size=1, **parameters)
    return tuple(network_of(config).operators(config.batch_size))


def test_the_tutorials_network_in_float32():
    """Three multiplications, the longest sum of 784 products."""
    expected = 4 * np.sqrt(2 * 3) * np.sqrt(3 + 784) * 2.0**-24
    assert tolerance_of(operators(), "float32", "CPU") == pytest.approx(expected)
    assert expected == pytest.approx(1.6e-5, rel=0.05)


def test_a_transformers_multiplications_stand_one_after_another():
    """In each block query, scores, mixed, output, up and down; then the head. The longest sum is that of down."""
    expected = 4 * np.sqrt(2 * (6 * 5 + 1)) * np.sqrt(3 * 2.0**-22 + 4 * 64 * 2.0**-48)
    assert tolerance_of(operators(network="gpt", layers=5), "float16", "CPU") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("precision", "device", "roundoff"),
    [
        ("float16", "CPU", 2.0**-11),
        ("float32", "GPU", 2.0**-11),
        ("float32", "Ascend", 2.0**-12),
        ("bfloat16", "Ascend", 2.0**-8),
        ("float16", "GPU", 2.0**-11),
    ],
)
def test_what_the_multiplications_round_to_decides(precision: str, device: str, roundoff: float):
    found = tolerance_of(operators(), precision, device)
    assert found == pytest.approx(4 * np.sqrt(6) * np.sqrt(3) * roundoff, rel=0.01)


def test_sums_that_are_rounded_to_float16_in_parts_stay_within_it():
    """Against NumPy: a product in float16, whole and as the sum of the parts of four ranks, each rounded."""
    (product,) = (each for each in operators() if each.name == "MatMul_layer2.weight")
    rows, columns = product.shapes
    random = np.random.default_rng(0)
    left, right = (random.normal(size=shape).astype(np.float16).astype(np.float32) for shape in (rows, columns))
    whole = (left @ right).astype(np.float16).astype(np.float32)
    parts = np.split(left, 4, axis=1), np.split(right, 4, axis=0)
    summed = sum((a @ b).astype(np.float16).astype(np.float32) for a, b in zip(*parts, strict=True))
    difference = np.abs(whole - summed).max() / np.abs(whole).max()
    assert 2.0**-14 < difference < tolerance_of([product], "float16", "CPU")
    assert difference > tolerance_of([product], "float32", "CPU")
