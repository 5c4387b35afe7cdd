from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shardline.run.directory import RunDirectory
from shardline.run.merged_model import MergedModel
from shardline.validation.sharded_logits import TOLERANCE, compare

EXPECTED = np.array([[4, -8], [2, 1]], np.float32)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    np.savez(run.reference_logits_file, samples=np.zeros((2, 1, 28, 28), np.float32), logits=EXPECTED)
    return run


def compared(run: RunDirectory, found: np.ndarray):
    return compare(run, MergedModel(run.merged / "model.ckpt", "d" * 64, None), lambda samples: found)


def test_equal_logits_differ_by_nothing(run: RunDirectory):
    comparison = compared(run, EXPECTED)
    assert comparison is not None
    assert (comparison.samples, comparison.relative_difference, comparison.equal) == (2, 0, True)


def test_the_greatest_difference_counts_relative_to_the_greatest_logit(run: RunDirectory):
    comparison = compared(run, EXPECTED + np.array([[0, 0], [0, -0.5]], np.float32))
    assert comparison is not None
    assert comparison.relative_difference == 0.5 / 8
    assert not comparison.equal


@pytest.mark.parametrize(("factor", "equal"), [(0.9, True), (1.1, False)])
def test_the_tolerance_is_a_hundred_thousandth(run: RunDirectory, factor: float, equal: bool):
    comparison = compared(run, EXPECTED.astype(np.float64) + 8e-5 * factor)
    assert TOLERANCE == 1e-5
    assert comparison is not None
    assert comparison.equal is equal
