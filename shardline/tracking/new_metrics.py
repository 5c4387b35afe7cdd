"""The values of `metrics.jsonl` that MLflow has not been sent, a batch at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.base.json_object import object_in
from shardline.tracking.sent import Sent

MOST_VALUES = 1000
"""In one request, by MLflow's own limit."""
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Batch:
    """Values (name, step, value) of the lines up to byte `end`, and which step and epoch they end with."""

    values: tuple[tuple[str, int, float], ...]
    end: int
    last_step: int
    last_epoch: int


def next_batch(file: Path, sent: Sent) -> Batch | None:
    """What comes next; `None` where nothing does.

    A try that resumes writes the file anew: it is read from its start then, and steps that were sent are passed over.
    """
    try:
        with file.open("rb") as lines:
            status = os.fstat(lines.fileno())
            if status.st_ino != sent.inode or status.st_size < sent.offset:
                sent.inode, sent.offset, sent.batch_end, sent.batch_time = status.st_ino, 0, 0, 0
            lines.seek(sent.offset)
            length = sent.batch_end - sent.offset if sent.batch_time else _CHUNK
            chunk = lines.read(length)
    except OSError:
        return None
    complete = chunk[: chunk.rfind(b"\n") + 1]
    if not complete:
        return None
    return _batch(complete, sent)


def _batch(complete: bytes, sent: Sent) -> Batch:
    values: list[tuple[str, int, float]] = []
    end, step, epoch = sent.offset, sent.last_step, sent.last_epoch
    for line in complete.splitlines(keepends=True):
        record = object_in(line) or {}
        reached = record.get("step" if (is_step := "step" in record) else "epoch")
        if isinstance(reached, int) and reached > (step if is_step else epoch):
            at, prefix = (reached, "") if is_step else (step, "epoch_")
            found = [(f"{prefix}{name}", at, value) for name, value in _numbers(record)][:MOST_VALUES]
            if len(values) + len(found) > MOST_VALUES:
                break
            values += found
            step, epoch = at, epoch if is_step else reached
        end += len(line)
    return Batch(tuple(values), end, step, epoch)


def _numbers(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name not in ("step", "epoch") and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def as_metrics(values: tuple[tuple[str, int, float], ...], time: int) -> list[dict[str, Any]]:
    """The values as MLflow takes them; what is no number is a text in JSON, as protobuf has it."""
    return [{"key": name, "value": _number(value), "timestamp": time, "step": step} for name, step, value in values]


def _number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
