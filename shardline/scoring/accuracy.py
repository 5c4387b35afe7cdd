"""The metric of a classifier: how many of the held-out samples it knows, by scikit-learn's measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from shardline.datasets.idx import CLASSES
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
    """The `Metric` of ten classes, of which at least the share `minimum` must be known."""

    minimum: float
    name: str = "accuracy"
    higher_is_better: bool = True

    def score(self, logits: Logits, samples: npt.NDArray[Any], labels: npt.NDArray[Any]) -> AccuracyScores:
        """Score the logits [N, classes] of samples [N, ...] against labels [N]."""
        from sklearn.metrics import accuracy_score, confusion_matrix

        found = logits(samples)
        predictions = found.argmax(axis=1)
        matrix = confusion_matrix(labels, predictions, labels=range(CLASSES))
        return AccuracyScores(
            samples=len(labels),
            accuracy=float(accuracy_score(labels, predictions)),
            min_accuracy=self.minimum,
            loss=cross_entropy(found, labels),
            classes=_by_class(labels, predictions),
            confusion_matrix=tuple(tuple(int(count) for count in row) for row in matrix),
        )


def _by_class(labels: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> tuple[ClassScores, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(labels, predictions, labels=range(CLASSES), zero_division=0)
    return tuple(
        ClassScores(label, float(precision), float(recall), float(f1), int(support))
        for label, (precision, recall, f1, support) in enumerate(zip(*columns, strict=True))
    )
