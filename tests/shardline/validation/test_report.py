from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from shardline.run.merged_model import MergedModel
from shardline.scoring.accuracy import Accuracy, AccuracyScores
from shardline.validation.report import Report
from shardline.validation.sharded_logits import Comparison


def comparison(difference: float, *, changed: int = 0) -> Comparison:
    return Comparison(
        samples=32,
        relative_difference=difference,
        tolerance=1e-5,
        decisions=32,
        decisions_changed=changed,
        decisions_changed_clearly=changed,
        ranks_loss=0.25,
        merged_loss=0.25,
        loss_tolerance=1e-4,
    )


def scores(logits: np.ndarray, labels: np.ndarray) -> AccuracyScores:
    return Accuracy(0.9).score(lambda samples: logits, labels, labels)


@pytest.fixture
def report() -> Report:
    labels = np.arange(10, dtype=np.int32)
    return Report(
        merged=MergedModel(Path("/run/merged/model.ckpt"), "d" * 64, 700),
        dataset_digest="e" * 64,
        metric="accuracy",
        scores=scores(np.eye(10, dtype=np.float32), labels),
        sharded_logits=comparison(3e-7),
    )


def test_a_good_model_passes(report: Report):
    document = json.loads(report.to_json())
    assert document["passed"] is True
    assert (document["metric"], document["accuracy"], document["min_accuracy"]) == ("accuracy", 1, 0.9)
    assert document["merged"] == {"file": "model.ckpt", "digest": "d" * 64, "step": 700}
    assert document["sharded_logits"] == asdict(comparison(3e-7))


def test_the_markdown_says_what_was_found(report: Report):
    text = report.to_markdown()
    assert text.startswith("# Validation passed\n")
    assert "- Accuracy: **1.0000** on 10 held-out images (at least 0.9)\n" in text
    assert f"- Model: `model.ckpt`, step 700, BLAKE3 `{'d' * 64}`\n" in text
    assert "the logits of 32 samples differ by 3.00e-07 of the greatest (at most 1e-05); 0 of 32 decisions" in text
    assert "| 9 | 1.000 | 1.000 | 1.000 | 1 |" in text


def test_the_accuracy_asked_for_is_enough(report: Report):
    exact = replace(report.scores, min_accuracy=1.0)
    assert replace(report, scores=exact).failures == []


@pytest.mark.parametrize("difference", [1.1e-5, 0.5])
def test_logits_that_differ_fail(report: Report, difference: float):
    failing = replace(report, sharded_logits=comparison(difference, changed=3))
    assert len(failing.failures) == 1
    assert "does not compute what the ranks computed" in failing.failures[0]
    assert "3 of 32 decisions clearly differ" in failing.failures[0]
    assert failing.to_markdown().startswith("# Validation failed\n\n- **the merged model does not compute")


def test_where_all_decisions_are_the_same_the_advice_is_not_to_train_again(report: Report):
    (failure,) = replace(report, sharded_logits=comparison(3e-5)).failures
    assert "expected logits that differ by at most 1e-05 of the greatest, found 3.00e-05" in failure
    assert "set logits_tolerance above" in failure
    assert "train" not in failure


def test_both_failures_are_named(report: Report):
    labels = np.zeros(10, np.int32)
    failing = replace(report, scores=scores(np.eye(10, dtype=np.float32), labels), sharded_logits=comparison(1.0))
    assert len(failing.failures) == 2
    assert json.loads(failing.to_json())["failures"] == failing.failures
