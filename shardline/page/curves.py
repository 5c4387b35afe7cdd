"""`metrics.jsonl` as columns, read on from where the last look ended.

A run of 100,000 steps is 15 MB of lines: they are parsed once, and every later look parses what was appended since, or
what the first left over: none reads more than `MOST_BYTES_A_LOOK`. A line that is no JSON object is counted and passed
over.
Beyond `MOST_ROWS` the columns are thinned to the extremes of the loss, so that memory stays bounded; zooming in then
shows fewer steps than there were.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic_core import from_json

from shardline.page.containment import Contained
from shardline.page.downsampling import Values, extremes
from shardline.run.directory import RunDirectory

MOST_ROWS = 400_000
MOST_EPOCHS = 5_000
MOST_BYTES_A_LOOK = 32 * 1024 * 1024
"""About 200,000 steps, half a second; what is left of a longer file, the looks after read."""
_CHUNK = 2 * 1024 * 1024
_TAIL = 4096
_NAMES = ("loss", "validation_loss", "learning_rate", "gradient_norm", "samples_per_second")


@dataclass
class Curves:
    """The curves of one run, as far as its metrics were read. `series` and `last` first read what was appended."""

    files: Contained
    path: Path
    _columns: dict[str, Values] = field(default_factory=dict)
    _epochs: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0
    _inode: int = -1
    _unread: int = 0
    _unreadable: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def series(
        self, name: str, *, points: int, smoothing: float = 0.0, first: float | None = None, last: float | None = None
    ) -> dict[str, Any]:
        """The column `name` over the steps `first` to `last`, in about `points` points, beside its moving average.

        `smoothing` is the weight of the past in the average, 0 to below 1, as TensorBoard has it; the average is made
        of all steps, before any is left out. Values that are no numbers come as `None`.
        """
        with self._lock:
            self._read_on()
            steps, values = self._columns["step"], self._columns[name]
            known = np.isfinite(steps) & (np.isfinite(values) | (name == "loss"))
            steps, values = steps[known], values[known]
            smooth = _moving_average(values, smoothing)
            begin = 0 if first is None else int(np.searchsorted(steps, first, side="left"))
            end = len(steps) if last is None else int(np.searchsorted(steps, last, side="right"))
            chosen = begin + extremes(values[begin:end], points)
            return {
                "name": name,
                "names": [other for other in _NAMES if np.isfinite(self._columns[other]).any()],
                "steps": [int(step) for step in steps[chosen]],
                "values": _numbers(values[chosen]),
                "smoothed": _numbers(smooth[chosen]) if smoothing else None,
                "rows": end - begin,
                "last_step": int(steps[-1]) if len(steps) else None,
                "not_finite": _not_finite(steps, values),
                "epochs": self._epochs,
                "unread_bytes": self._unread,
                "unreadable_lines": self._unreadable,
            }

    def last(self) -> dict[str, float | None]:
        """Step, epoch and loss of the newest step; empty before the first."""
        with self._lock:
            self._read_on()
            if not len(self._columns["step"]):
                return {}
            newest = {name: float(column[-1]) for name, column in self._columns.items()}
            return {name: value if np.isfinite(value) else None for name, value in newest.items()}

    def steps_per_epoch(self) -> int | None:
        """How many steps the first epoch had; `None` until the second has begun."""
        with self._lock:
            epochs = self._columns["epoch"]
            later = np.flatnonzero(epochs > 1)
            return int(self._columns["step"][later[0]]) - 1 if len(later) else None

    def _read_on(self) -> None:
        if not self._columns:
            self._forget()
        try:
            with self.files.open(self.path) as file:
                status = os.fstat(file.fileno())
                # A try that resumes replaces the file by one that ends at its first step.
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._forget()
                    self._inode = status.st_ino
                self._read_until(file, min(self._offset + MOST_BYTES_A_LOOK, status.st_size))
                self._unread = status.st_size - self._offset
        except FileNotFoundError:
            self._forget()

    def _forget(self) -> None:
        self._columns = {name: np.empty(0) for name in ("step", "epoch", *_NAMES)}
        self._epochs, self._offset, self._inode, self._unread, self._unreadable = [], 0, -1, 0, 0

    def _read_until(self, file: BinaryIO, end: int) -> None:
        """Read the complete lines up to the byte `end`, or a little beyond."""
        added = []
        while self._offset < end:
            file.seek(self._offset)
            lines = self._complete_lines(file)
            if not lines:
                break
            self._offset += len(lines)
            added.append(self._columns_of(lines))
        if added:
            self._columns = {
                name: np.concatenate([column, *(part[name] for part in added)])
                for name, column in self._columns.items()
            }
        if len(self._columns["step"]) > MOST_ROWS:
            kept = extremes(self._columns["loss"], MOST_ROWS // 2)
            self._columns = {name: column[kept] for name, column in self._columns.items()}

    def _complete_lines(self, file: BinaryIO) -> bytes:
        """The complete lines that come next; of one that is longer than any of ours, a part that will not be read."""
        chunk = file.read(_CHUNK)
        complete = chunk[: chunk.rfind(b"\n") + 1]
        return complete or (chunk if len(chunk) == _CHUNK else b"")

    def _columns_of(self, lines: bytes) -> dict[str, Values]:
        records, unreadable = _parse(lines)
        self._unreadable += unreadable
        rows = [record for record in records if "step" in record]
        self._epochs += [record for record in records if "step" not in record and "epoch" in record]
        del self._epochs[:-MOST_EPOCHS]
        return {name: _column([row.get(name) for row in rows]) for name in self._columns}


def last_step(files: Contained) -> dict[str, float | None]:
    """Step and loss of the newest step of a run, from the end of its metrics alone; empty before the first."""
    try:
        with files.open(RunDirectory(files.root).metrics_file) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _TAIL, 0))
            lines = file.read(_TAIL).splitlines()[1 if size > _TAIL else 0 :]
    except FileNotFoundError:
        return {}
    records = (record for record in map(_record, reversed(lines)) if isinstance(record, dict) and "step" in record)
    newest = next(records, {})
    return {
        name: number if math.isfinite(number := _number(newest[name])) else None
        for name in ("step", "loss")
        if name in newest
    }


def _parse(lines: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects, one a line, and how many lines are none.

    One document of all lines is parsed several times as fast as one a line; where that is none, each is tried.
    """
    split = lines.splitlines()
    try:
        records = from_json(b"[" + b",".join(split) + b"]")
    except ValueError:
        records = list(map(_record, filter(bytes.strip, split)))
    objects = [record for record in records if isinstance(record, dict)]
    return objects, len(records) - len(objects)


def _record(line: bytes) -> Any:
    try:
        return from_json(line)
    except ValueError:
        return None


def _column(values: list[Any]) -> Values:
    """Numbers of any kind as floats; NaN for everything else."""
    kinds = set(map(type, values))
    if kinds <= {float, type(None)} or (kinds == {int} and max(map(abs, values)) < 2**53):
        return np.array(values, dtype=np.float64)
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**53) else math.nan


def _numbers(values: Values) -> list[float | None]:
    return [value if finite else None for value, finite in zip(values.tolist(), np.isfinite(values), strict=True)]


def _not_finite(steps: Values, values: Values) -> dict[str, int] | None:
    places = np.flatnonzero(~np.isfinite(values))
    return {"count": len(places), "first_step": int(steps[places[0]])} if len(places) else None


def _moving_average(values: Values, weight: float) -> Values:
    """Exponential, its start corrected for the missing past; places without a number have none."""
    finite = np.isfinite(values)
    average = np.full(len(values), np.nan)
    numbers = values[finite]
    if weight and len(numbers):
        start = (1 - weight) * numbers[0]
        sums = accumulate(numbers[1:].tolist(), lambda past, value: weight * past + (1 - weight) * value, initial=start)
        missing = 1 - weight ** np.arange(1, len(numbers) + 1)
        average[finite] = np.fromiter(sums, dtype=np.float64, count=len(numbers)) / missing
    return average
