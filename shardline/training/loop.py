"""The loop of all backends: take a batch, step, judge, record, save; and stop where all ranks agree to."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from mindspore import Tensor

from shardline.base.errors import Stopped
from shardline.training.batches import Batches
from shardline.training.health import Health
from shardline.training.held_out import HeldOut
from shardline.training.metrics_file import Metrics
from shardline.training.phases import Phases
from shardline.training.saving import Saver
from shardline.training.status import Status
from shardline.training.step_record import StepRecord
from shardline.training.stopping import Stopping


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Training of a compiled step cell, from any step to any other."""

    cell: Any
    batches: Batches
    saver: Saver
    metrics: Metrics
    health: Health
    status: Status
    stopping: Stopping
    phases: Phases
    held_out: HeldOut | None = None

    def run(self, first: int, last: int, save_every: int) -> None:
        """Take the steps from `first` (counted from 0) up to `last`, which is always saved.

        Raises `Stopped` where all ranks have agreed to leave earlier, when that step is saved.
        """
        for step in range(first, last):
            is_saved = (step + 1) % save_every == 0 or step + 1 == last
            is_last_of_epoch = self.batches.is_last_of_epoch(step)
            # Where the ranks meet anyway, about once a second, and what stays to be looked at.
            wants_norm = is_saved or is_last_of_epoch or self.stopping.is_due(step + 1)
            with self.phases.measure("steps"):
                record = self._step(step, wants_norm)
            if self.held_out is not None and self.held_out.is_due(record.step, last):
                with self.phases.measure("held_out"):
                    record = replace(record, validation_loss=self.held_out.loss())
            self.metrics.step(record, is_last=is_last_of_epoch)
            self.status.update(record.step)
            with self.phases.measure("agreement"):
                stop = self.stopping.agreed(record.step) and record.step < last
            if stop or is_saved:
                with self.phases.measure("save"):
                    self.saver.save(record.step, record.epoch, record.step_in_epoch)
                    if stop or record.step == last:
                        self.saver.finish()
            if is_last_of_epoch:
                self.metrics.epoch(record.epoch)
            if stop:
                raise Stopped(
                    f"told to stop by SIGTERM: left after step {record.step} of {last}, whose shard set is saved; "
                    "the next try of this run goes on from there"
                )

    def _step(self, step: int, wants_norm: bool) -> StepRecord:
        since = time.perf_counter()
        samples, labels = self.batches.at(step)
        is_measured = self.cell.measure_norm(wants_norm)
        outcome = self.cell(Tensor.from_numpy(samples), Tensor.from_numpy(labels))
        loss, learning_rate, norm = (float(value.asnumpy()) for value in outcome)
        gradient_norm = norm if is_measured else None
        epoch, index = self.batches.position(step)
        self.health.check(f"epoch {epoch} step {index}", loss, gradient_norm)
        return StepRecord(
            step=step + 1,
            epoch=epoch,
            step_in_epoch=index,
            loss=loss,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            samples=len(labels),
            seconds=time.perf_counter() - since,
        )
