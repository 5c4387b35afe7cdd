"""Progress: lines in every rank's log as MindSpore's LossMonitor prints them, and `metrics.jsonl` by rank 0.

{"step": 161, "epoch": 2, "loss": 1.0342, "learning_rate": 0.001, "gradient_norm": 0.71, "samples_per_second": 790.1}
{"epoch": 2, "samples_per_second": 812.4}

The first after each step, which counts from 1 over all epochs, with the time of the step alone; the second after each
epoch, saving included. What a step does not tell (learning rate, `validation_loss`, a gradient norm that was not
measured) is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shardline.base import atomic
from shardline.training.step_record import StepRecord

if TYPE_CHECKING:
    from shardline.training.event_files import EventFiles

PRINT_EVERY_SECONDS = 5.0


class Metrics:
    """Open for one training run from `step` on; what an earlier try recorded beyond `step` is dropped.

    With `before`, another run's file, the records up to `step` are taken from there: the curve is whole. `events` get
    every step too, and are closed with the rest.
    """

    def __init__(
        self, file: Path | None, step: int, before: Path | None = None, events: EventFiles | None = None
    ) -> None:
        self.loss = keep_until(file, before or file, step) if file is not None else None
        """The last step's loss."""
        self._file = file.open("a", encoding="utf-8", buffering=1) if file is not None else None
        self._events = events
        self._samples, self._since = 0, time.perf_counter()
        self._printed_at = -PRINT_EVERY_SECONDS

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def step(self, record: StepRecord, *, is_last: bool = False) -> None:
        """Record one step; the log gets a line for the first, every few seconds, and for the `is_last` of an epoch."""
        self.loss = record.loss
        self._samples += record.samples
        self._write(record.to_json())
        if self._events is not None:
            self._events.step(record)
        now = time.perf_counter()
        if is_last or now - self._printed_at >= PRINT_EVERY_SECONDS:
            self._printed_at = now
            print(record, flush=True)

    def epoch(self, epoch: int) -> None:
        """Record the end of an epoch: its throughput, saving included."""
        now = time.perf_counter()
        samples_per_second = round(self._samples / (now - self._since), 1)
        self._write(json.dumps({"epoch": epoch, "samples_per_second": samples_per_second}))
        self._samples, self._since = 0, now

    def _write(self, line: str) -> None:
        if self._file is not None:
            self._file.write(line + "\n")


def keep_until(file: Path, source: Path, step: int) -> float | None:
    """Make `file` the records of `source` up to `step`, without a line that a kill cut off; the loss at `step`."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True) if source.exists() and step else []
    kept: list[str] = []
    loss = None
    for line in lines:
        record: Mapping[str, Any] = json.loads(line) if line.endswith("\n") else {"step": step + 1}
        if record.get("step", 0) > step:
            break
        loss = record.get("loss", loss)
        kept.append(line)
    atomic.write_text(file, "".join(kept))
    return loss
