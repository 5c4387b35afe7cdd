"""Progress: lines in every rank's log as MindSpore's LossMonitor prints them, and `metrics.jsonl` by rank 0.

{"step": 161, "epoch": 2, "loss": 1.0342, "learning_rate": 0.001, "gradient_norm": 0.71, "samples_per_second": 790.1}
{"epoch": 2, "samples_per_second": 812.4}

The first after each step, which counts from 1 over all epochs, with the time of the step alone; the second after each
epoch, saving included. What a step does not tell (learning rate, gradient norm) is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tasks import atomic

if TYPE_CHECKING:
    from tasks.training.event_files import EventFiles

PRINT_EVERY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is known of one step: its place, what it computed, and how many samples it took in how many seconds."""

    step: int
    epoch: int
    step_in_epoch: int
    loss: float
    learning_rate: float | None = None
    gradient_norm: float | None = None
    samples: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        return round(self.samples / self.seconds, 1)

    def numbers(self) -> dict[str, float]:
        """What is known of what the step did, by the names of `metrics.jsonl`."""
        known = {
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            "samples_per_second": self.samples_per_second,
        }
        return {name: value for name, value in known.items() if value is not None}

    def to_json(self) -> str:
        return json.dumps({"step": self.step, "epoch": self.epoch, **self.numbers()})

    def __str__(self) -> str:
        norm = "" if self.gradient_norm is None else f", gradient norm {self.gradient_norm:.3g}"
        rate = "" if self.learning_rate is None else f", learning rate {self.learning_rate:.3g}"
        place = f"epoch: {self.epoch} step: {self.step_in_epoch}, loss is {self.loss:.4f}"
        return f"{place}{rate}{norm}, {self.samples_per_second:.0f} samples/s"


class Metrics:
    """Open for one training run from `step` on; what an earlier try recorded beyond `step` is dropped.

    With `before`, another run's file, the records up to `step` are taken from there: the curve is whole. `events` get
    every step too, and are closed with the rest.
    """

    def __init__(
        self, file: Path | None, step: int, before: Path | None = None, events: EventFiles | None = None
    ) -> None:
        self.loss = _keep_until(file, before or file, step) if file is not None else None
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


def _keep_until(file: Path, source: Path, step: int) -> float | None:
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
