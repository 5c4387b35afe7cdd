from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.base.errors import ValidationError
from shardline.scoring.accuracy import Accuracy, AccuracyScores
from shardline.scoring.cross_entropy import cross_entropy


def score(logits: np.ndarray, labels: np.ndarray, minimum: float = 0.0) -> AccuracyScores:
    return Accuracy(minimum).score(lambda samples: logits, np.zeros((len(labels), 1)), labels)


def logits_for(predictions: list[int], height: float = 5.0) -> np.ndarray:
    return (np.eye(10, dtype=np.float32)[predictions] * height).astype(np.float32)


def test_scores_of_a_case_that_can_be_counted_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2], np.int32)
    scores = score(logits_for([0, 0, 1, 1, 1, 0]), labels)
    assert scores.samples == 6
    assert scores.accuracy == pytest.approx(4 / 6)
    zero, one, two, three = scores.classes[:4]
    assert (zero.precision, zero.recall, zero.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (one.precision, one.recall, one.f1) == pytest.approx((2 / 3, 1, 0.8))
    assert (two.precision, two.recall, two.f1, two.support) == (0, 0, 0, 1)
    assert (three.precision, three.recall, three.f1, three.support) == (0, 0, 0, 0)
    assert [row[:3] for row in scores.confusion_matrix[:3]] == [(2, 1, 0), (0, 2, 0), (1, 0, 0)]
    assert sum(sum(row) for row in scores.confusion_matrix) == 6


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 2), min_size=1, max_size=60))
def test_the_measures_are_those_of_scikit_learn(samples):
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support  # comes with mlxtend

    labels, predictions = np.array(samples, np.int32).T
    scores = score(logits_for(list(predictions)), labels)
    columns = precision_recall_fscore_support(labels, predictions, labels=range(10), zero_division=0)
    found = [(entry.precision, entry.recall, entry.f1, entry.support) for entry in scores.classes]
    np.testing.assert_allclose(found, np.transpose(columns), rtol=1e-12)
    np.testing.assert_array_equal(scores.confusion_matrix, confusion_matrix(labels, predictions, labels=range(10)))
    assert scores.accuracy == accuracy_score(labels, predictions)


def test_a_network_of_more_outputs_than_the_data_has_classes_is_scored_by_all_of_them():
    scores = score((np.eye(12, dtype=np.float32)[[3, 11]]), np.array([3, 3], np.int32))
    assert (scores.accuracy, scores.classes[3].recall, scores.classes[11].precision) == (0.5, 0.5, 0)
    assert scores.confusion_matrix[3][11] == 1


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_output_of_the_network_is_refused(label):
    """NumPy takes -1 for the last one."""
    with pytest.raises(
        ValidationError, match=rf"expected labels from 0 to 9, as the network's outputs, found {label}$"
    ):
        score(logits_for([3, 9]), np.array([3, label], np.int32))


def test_every_class_is_listed_even_if_the_data_has_it_not():
    scores = score(logits_for([3]), np.array([3], np.int32))
    assert [entry.label for entry in scores.classes] == list(range(10))
    assert len(scores.confusion_matrix) == 10
    assert scores.accuracy == 1.0


def test_cross_entropy_of_no_knowledge_is_the_logarithm_of_the_classes():
    assert cross_entropy(np.zeros((4, 10), np.float32), np.arange(4, dtype=np.int32)) == pytest.approx(math.log(10))


def test_cross_entropy_stays_finite_for_great_logits():
    logits = np.array([[1e4] + [0] * 9], np.float32)
    assert cross_entropy(logits, np.array([0], np.int32)) == 0
    assert cross_entropy(logits, np.array([1], np.int32)) == pytest.approx(1e4)
