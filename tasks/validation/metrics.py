"""How good the predictions are, by scikit-learn's measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.datasets.idx import CLASSES


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of one class, 0 where undefined; `support` is how many samples are of that class."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Accuracy, mean cross-entropy in nats, and the confusion matrix: rows are true classes, columns predicted ones."""

    samples: int
    accuracy: float
    loss: float
    classes: tuple[ClassScores, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]


def score(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> Scores:
    """Score finite logits [N, classes] against labels [N]."""
    from sklearn.metrics import accuracy_score, confusion_matrix

    predictions = logits.argmax(axis=1)
    matrix = confusion_matrix(labels, predictions, labels=range(CLASSES))
    return Scores(
        samples=len(labels),
        accuracy=float(accuracy_score(labels, predictions)),
        loss=cross_entropy(logits, labels),
        classes=_by_class(labels, predictions),
        confusion_matrix=tuple(tuple(int(count) for count in row) for row in matrix),
    )


def cross_entropy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> float:
    """Mean cross-entropy in nats, in float64."""
    from scipy.special import log_softmax

    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def _by_class(labels: npt.NDArray[np.int32], predictions: npt.NDArray[Any]) -> tuple[ClassScores, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(labels, predictions, labels=range(CLASSES), zero_division=0)
    return tuple(
        ClassScores(label, float(precision), float(recall), float(f1), int(support))
        for label, (precision, recall, f1, support) in enumerate(zip(*columns, strict=True))
    )
