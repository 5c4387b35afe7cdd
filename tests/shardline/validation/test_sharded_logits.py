from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shardline.run.directory import RunDirectory
from shardline.run.merged_model import MergedModel
from shardline.validation.sharded_logits import compare

EXPECTED = np.array([[4, -8], [2, 1]], np.float32)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    np.savez(
        run.reference_logits_file, samples=np.zeros((2, 1, 28, 28), np.float32), labels=np.arange(2), logits=EXPECTED
    )
    return run


def compared(run: RunDirectory, found: np.ndarray, tolerance: float = 1e-5):
    return compare(run, MergedModel(run.merged / "model.ckpt", "d" * 64, None), lambda samples: found, tolerance)


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
def test_a_difference_up_to_the_tolerance_is_rounding(run: RunDirectory, factor: float, equal: bool):
    comparison = compared(run, EXPECTED.astype(np.float64) + 8e-5 * factor)
    assert comparison is not None
    assert comparison.equal is equal


def test_a_decision_changes_clearly_where_the_ranks_two_greatest_logits_lie_apart(run: RunDirectory):
    comparison = compared(run, np.array([[4, -8], [1.5, 1.6]], np.float32), tolerance=0.1)
    assert comparison is not None
    assert (comparison.decisions, comparison.decisions_changed, comparison.decisions_changed_clearly) == (2, 1, 1)
    assert comparison.relative_difference < 0.1
    assert not comparison.equal, "logits within the tolerance, but another decision"
    comparison = compared(run, np.array([[4, -8], [1.5, 1.6]], np.float32), tolerance=0.2)
    assert comparison is not None
    assert (comparison.decisions_changed, comparison.decisions_changed_clearly, comparison.equal) == (1, 0, True)


def test_the_loss_is_compared(run: RunDirectory):
    comparison = compared(run, EXPECTED + np.array([[1.5, -0.5], [1.5, -0.5]], np.float32), tolerance=0.2)
    assert comparison is not None
    assert comparison.ranks_loss == pytest.approx((np.log1p(np.exp(-12)) + np.log1p(np.exp(1))) / 2)
    assert comparison.merged_loss == pytest.approx((np.log1p(np.exp(-14)) + np.log1p(np.exp(3))) / 2)
    assert comparison.decides_alike is (abs(comparison.ranks_loss - comparison.merged_loss) <= 0.2 * 8)
