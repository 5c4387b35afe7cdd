"""The metric of a classifier: how many of the held-out samples it knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shardline.base.errors import ValidationError
from shardline.networks.train_spec import Logits
from shardline.scoring.cross_entropy import cross_entropy
from shardline.scoring.plots import plot_confusion_matrix

CONFUSION_MATRIX_FILE = "confusion_matrix.png"


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of one class, 0 where undefined; `support` is how many samples are of that class."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class AccuracyScores:
    """Accuracy, mean cross entropy in nats, and the confusion matrix: rows are true classes, columns predicted ones."""

    samples: int
    accuracy: float
    min_accuracy: float
    loss: float
    classes: tuple[ClassScores, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]

    @property
    def value(self) -> float:
        return self.accuracy

    @property
    def failures(self) -> list[str]:
        if self.accuracy >= self.min_accuracy:
            return []
        return [
            f"expected an accuracy of at least {self.min_accuracy}, found {self.accuracy:.4f} on {self.samples} "
            "held-out images; train longer, or lower min_accuracy"
        ]

    def to_document(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> list[str]:
        rows = [
            f"| {scores.label} | {scores.precision:.3f} | {scores.recall:.3f} | {scores.f1:.3f} | {scores.support} |"
            for scores in self.classes
        ]
        return [
            f"- Accuracy: **{self.accuracy:.4f}** on {self.samples} held-out images (at least {self.min_accuracy})",
            "",
            "| class | precision | recall | F1 | images |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"![Confusion matrix]({CONFUSION_MATRIX_FILE})",
        ]

    def plot(self, folder: Path) -> None:
        plot_confusion_matrix(self.confusion_matrix, folder / CONFUSION_MATRIX_FILE)


@dataclass(frozen=True)
class Accuracy:
    """The `Metric` of a classifier that must know at least the share `minimum` of the samples."""

    minimum: float
    name: str = "accuracy"
    higher_is_better: bool = True

    def score(self, logits: Logits, samples: npt.NDArray[Any], labels: npt.NDArray[Any]) -> AccuracyScores:
        """Score the logits [N, classes] of samples [N, ...] against labels [N]; `ValidationError` of other classes."""
        found = logits(samples)
        classes = found.shape[1]
        if (wrong := labels[(labels < 0) | (labels >= classes)]).size:
            raise ValidationError(
                f"expected labels from 0 to {classes - 1}, as the network's outputs, found {wrong[0]}"
            )
        matrix = np.zeros((classes, classes), np.int64)
        np.add.at(matrix, (labels, found.argmax(axis=1)), 1)
        return AccuracyScores(
            samples=len(labels),
            accuracy=int(matrix.trace()) / len(labels),
            min_accuracy=self.minimum,
            loss=cross_entropy(found, labels),
            classes=_by_class(matrix),
            confusion_matrix=tuple(map(tuple, matrix.tolist())),
        )


def _by_class(matrix: npt.NDArray[np.int64]) -> tuple[ClassScores, ...]:
    """Of counts [classes, classes], whose rows are true classes and whose columns predicted ones."""
    known, predicted, support = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    precision, recall, f1 = _share(known, predicted), _share(known, support), _share(2 * known, predicted + support)
    return tuple(
        ClassScores(label, float(precision[label]), float(recall[label]), float(f1[label]), int(support[label]))
        for label in range(len(matrix))
    )


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """0 of nothing."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
