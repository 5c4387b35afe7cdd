"""Progress: lines in every rank's log as MindSpore's LossMonitor prints them, and `metrics.jsonl` by rank 0.

{"step": 161, "epoch": 2, "loss": 1.0342}            each step; `step` counts from 1 over all epochs
{"epoch": 2, "samples_per_second": 812.4}            after each epoch
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tasks import atomic

PRINT_EVERY = 20


class Metrics:
    """Open for one training run from `step` on; what an earlier try recorded beyond `step` is dropped."""

    def __init__(self, file: Path | None, step: int) -> None:
        self.loss = _keep_until(file, step) if file is not None else None
        """The last step's loss."""
        self._file = file.open("a", encoding="utf-8", buffering=1) if file is not None else None
        self._samples, self._since = 0, time.perf_counter()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def step(self, step: int, epoch: int, step_in_epoch: int, loss: float, samples: int) -> None:
        """Record one step."""
        self.loss = loss
        self._samples += samples
        self._write({"step": step, "epoch": epoch, "loss": loss})
        if step_in_epoch % PRINT_EVERY == 0:
            print(f"epoch: {epoch} step: {step_in_epoch}, loss is {loss:.4f}", flush=True)

    def epoch(self, epoch: int) -> None:
        """Record the end of an epoch: its throughput, saving included."""
        now = time.perf_counter()
        self._write({"epoch": epoch, "samples_per_second": round(self._samples / (now - self._since), 1)})
        self._samples, self._since = 0, now

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")


def _keep_until(file: Path, step: int) -> float | None:
    """Drop the records after `step`, and a line that a kill cut off; the loss at `step`, if known."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() and step else []
    kept: list[str] = []
    loss = None
    for line in lines:
        record = json.loads(line) if line.endswith("\n") else {"step": step + 1}
        if record.get("step", 0) > step:
            break
        loss = record.get("loss", loss)
        kept.append(line)
    atomic.write_text(file, "".join(kept))
    return loss
