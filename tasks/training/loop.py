"""The loop of all backends: take a batch, step, record, save."""

from __future__ import annotations

from math import isfinite
from typing import Any

from mindspore import Tensor

from tasks.errors import TrainingError
from tasks.training.batches import Batches
from tasks.training.metrics import Metrics
from tasks.training.phases import Phases
from tasks.training.saving import Saver


class Loop:
    """Training of a compiled step cell, from any step to any other."""

    def __init__(self, cell: Any, batches: Batches, metrics: Metrics, saver: Saver, phases: Phases) -> None:
        self._cell, self._batches, self._metrics, self._saver, self._phases = cell, batches, metrics, saver, phases

    def run(self, first: int, last: int, save_every: int) -> float | None:
        """Take the steps from `first` (counted from 0) up to `last`, which is always saved; the last step's loss."""
        loss = None
        for step in range(first, last):
            with self._phases.measure("steps"):
                loss = self._step(step)
            if (step + 1) % save_every == 0 or step + 1 == last:
                with self._phases.measure("save"):
                    self._saver.save(step + 1, *self._batches.position(step))
            epoch, index = self._batches.position(step)
            if index == self._batches.steps_per_epoch:
                self._metrics.epoch(epoch)
        return loss

    def _step(self, step: int) -> float:
        images, labels = self._batches.at(step)
        loss = float(self._cell(Tensor(images), Tensor(labels)).asnumpy())
        epoch, index = self._batches.position(step)
        if not isfinite(loss):
            raise TrainingError(
                f"epoch {epoch} step {index}: the loss is {loss}, expected a finite number; nothing is saved from "
                "this step: lower learning_rate and start a new run"
            )
        self._metrics.step(step + 1, epoch, index, loss, len(labels))
        return loss
