"""Pictures of a validation, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shardline.base import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LossByStep = Sequence[tuple[int, float]]


def plot_confusion_matrix(matrix: Sequence[Sequence[int]], file: Path) -> None:
    """Draw counts by true class (rows) and predicted class (columns)."""
    figure, counts = _figure(), np.asarray(matrix)
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if 2 * count > counts.max() else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    classes = range(len(counts))
    axes.set(xticks=classes, yticks=classes, xlabel="predicted class", ylabel="true class")
    axes.set_title("Confusion matrix, held-out images")
    _save(figure, file)


def plot_loss(losses: LossByStep, validation_loss: float, file: Path) -> None:
    """Draw the training loss by step, and the merged model's loss on the held-out samples as a line across."""
    figure = _figure()
    axes = figure.subplots()
    axes.plot(*zip(*losses, strict=True), linewidth=1, label="training, each step")
    axes.axhline(validation_loss, linestyle="--", color="tab:orange", label="merged model, held-out samples")
    axes.set(xlabel="step", ylabel="cross entropy (nats)", title="Loss")
    axes.legend()
    _save(figure, file)


def plot_loss_by_position(losses: Sequence[float], unigram_loss: float, file: Path) -> None:
    """Draw a language model's mean loss by the number of tokens that it saw before, and the best without any."""
    figure = _figure()
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, linewidth=1, label="merged model, held-out text")
    axes.axhline(unigram_loss, linestyle="--", color="tab:orange", label="best without context")
    axes.set(xlabel="position in the window", ylabel="cross entropy (nats)", title="What the context is worth", ylim=0)
    axes.legend()
    _save(figure, file)


def _figure() -> Figure:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 5.2), layout="constrained")


def _save(figure: Figure, file: Path) -> None:
    with atomic.staged(file) as path:
        figure.savefig(path, format="png", dpi=120, metadata={"Software": None})
