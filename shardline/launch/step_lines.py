"""Steps in the lines of a log that a program prints, as `metrics.jsonl` has them.

Only the standard library is imported here: ranks load it first.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardline.base.json_object import object_in

_LONGEST_LINE = 16 * 1024
_MOST_BYTES = 256 * 1024 * 1024
_WHOLE = ("epoch", "step", "steps_per_epoch")


@dataclass
class StepLines:
    """Reads steps from what is printed, piece by piece, and appends them to `metrics`, a JSON object a line.

    `patterns` are regular expressions with named groups; without any, lines are JSON objects, whose fields `keys`
    names. What lines say before the step that follows is said of that; without steps, every loss is one. A step that
    was told before is passed over. One that is counted within its epoch is counted on: from `steps_per_epoch`, or else
    from the last step of the epoch before.
    """

    metrics: Path
    patterns: Sequence[str] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    last_step: int = 0
    """The newest step so far: of an earlier try, where this one goes on."""
    _compiled: list[re.Pattern[str]] = field(default_factory=list)
    _tells_step: bool = False
    _partial: bytearray = field(default_factory=bytearray)
    _fields: dict[str, float] = field(default_factory=dict)
    _epoch: int | None = None
    _in_epoch: int = 0
    _before_epoch: int = 0
    _bytes: int = 0
    _file: int = -1

    def __post_init__(self) -> None:
        self._compiled = [re.compile(pattern) for pattern in self.patterns]
        self._tells_step = any("step" in pattern.groupindex for pattern in self._compiled)

    def feed(self, content: bytes) -> bool:
        """Read what was printed next; whether there was a new step in it."""
        *lines, rest = content.split(b"\n")
        found = False
        for line in lines:
            self._append(line)
            found = self._line(self._partial.decode("utf-8", "replace")) or found
            self._partial.clear()
        self._append(rest)
        return found

    def _append(self, part: bytes) -> None:
        self._partial += part[: max(0, _LONGEST_LINE - len(self._partial))]

    def _line(self, line: str) -> bool:
        fields = self._in_patterns(line) if self._compiled else self._in_json(line)
        if not fields:
            return False
        self._fields |= fields
        self._tells_step = self._tells_step or "step" in fields
        return self._record() if ("step" if self._tells_step else "loss") in fields else False

    def _in_patterns(self, line: str) -> dict[str, float]:
        fields: dict[str, float] = {}
        for pattern in self._compiled:
            if match := pattern.search(line):
                fields |= _numbers(match.groupdict())
        return fields

    def _in_json(self, line: str) -> dict[str, float]:
        document = (object_in(line) if line.startswith("{") else None) or {}
        names = {name: self.keys.get(name, name) for name in (*_WHOLE, "loss", "learning_rate")}
        return _numbers({name: document.get(key) for name, key in names.items()})

    def _record(self) -> bool:
        step = self._global_step()
        if step <= self.last_step or self._bytes > _MOST_BYTES:
            return False
        record: dict[str, Any] = {"step": step}
        if self._epoch is not None:
            record["epoch"] = self._epoch
        for name in ("loss", "learning_rate"):
            if name in self._fields:
                value = self._fields[name]
                record[name] = value if math.isfinite(value) else None
        line = json.dumps(record) + "\n"
        try:
            self._write(line.encode())
        except OSError:  # a full drive: the page lacks a step, the program goes on
            return False
        self.last_step = step
        self._bytes += len(line)
        self._fields.pop("step", None)
        return True

    def _write(self, line: bytes) -> None:
        if self._file < 0:
            self._file = os.open(self.metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        while line:
            line = line[os.write(self._file, line) :]

    def _global_step(self) -> int:
        if "step" not in self._fields:
            return self.last_step + 1
        step, epoch = int(self._fields["step"]), self._fields.get("epoch")
        per_epoch = self._fields.get("steps_per_epoch")
        if epoch is not None and self._epoch is not None and epoch > self._epoch and step <= self._in_epoch:
            self._before_epoch += self._in_epoch
        self._epoch, self._in_epoch = None if epoch is None else int(epoch), step
        if per_epoch is not None and epoch is not None:
            return int((epoch - 1) * per_epoch) + step
        return self._before_epoch + step


def _numbers(texts: Mapping[str, Any]) -> dict[str, float]:
    """The values that are numbers."""
    numbers = {}
    for name, text in texts.items():
        number = _number(text)
        if number is not None and (name not in _WHOLE or (math.isfinite(number) and abs(number) < 2**53)):
            numbers[name] = number
    return numbers


def _number(text: Any) -> float | None:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    try:
        return float(text)
    except (ValueError, OverflowError):
        return None
