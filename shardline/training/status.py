"""What a rank is at, for whoever watches: `log_output/1/rank.N/status.json`, replaced every few seconds.

{"rank": 3, "host": "node1", "pid": 4711, "step": 160, "last_step": 700, "steps_per_second": 21.4,
 "memory_bytes": 401604608, "peak_memory_bytes": 410000000, "time": 1763913600.2, "collectives_seconds": 12.8}

It is there after the first step. `last_step` is the one that training ends with; `collectives_seconds`
(`shardline.parallel.cpu.stopwatch`) stands there where several CPUs train.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from shardline.base import atomic

EVERY_SECONDS = 2.0


class Status:
    """One rank's status file. It is no record to rely on: a crash of the machine may lose it."""

    def __init__(self, file: Path, rank: int, steps: range, collectives: Callable[[], float | None]) -> None:
        """Of a training that has taken `steps.start` steps, and ends with `steps.stop`."""
        self._file, self._rank, self._collectives = file, rank, collectives
        self._process = psutil.Process()
        self._step, self._last, self._written_at = steps.start, steps.stop, time.monotonic()
        self._is_there = False

    def update(self, step: int) -> None:
        """Say that `step` is done; written for the first, every few seconds, and for the last."""
        elapsed = time.monotonic() - self._written_at
        if self._is_there and elapsed < EVERY_SECONDS and step != self._last:
            return
        memory = self._process.memory_info().rss
        peak = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )  # KiB on Linux; brought up to date now and then
        document = {
            "rank": self._rank,
            "host": platform.node(),
            "pid": os.getpid(),
            "step": step,
            "last_step": self._last,
            "steps_per_second": round((step - self._step) / max(elapsed, 1e-9), 2),
            "memory_bytes": memory,
            "peak_memory_bytes": max(memory, peak),
            "time": time.time(),
        }
        if (seconds := self._collectives()) is not None:
            document["collectives_seconds"] = round(seconds, 3)
        self._step, self._written_at = step, time.monotonic()
        staged = atomic.staged_path(self._file)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(document))
        staged.replace(self._file)
        self._is_there = True
