"""Progress of long work: a bar in a terminal, a line every few seconds in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from shardline.base.counts import counted

_BAR = 24
_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 5.0


class Meter:
    """Counts what several threads have done. This one is silent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.phase = ""
        self.bytes_done = self.bytes_total = self.tensors_done = self.tensors_total = 0

    def begin(self, phase: str, bytes_total: int, tensors_total: int) -> None:
        """A new phase starts at zero."""
        with self._lock:
            self.phase, self.bytes_total, self.tensors_total = phase, bytes_total, tensors_total
            self.bytes_done = self.tensors_done = 0

    def advance(self, count: int, tensors: int = 0) -> None:
        """`count` more bytes are done, and with them `tensors` whole tensors."""
        with self._lock:
            self.bytes_done += count
            self.tensors_done += tensors


class ReportingMeter(Meter):
    """Writes what it counts to `stream`."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._in_terminal = stream, stream.isatty()
        self._started = time.monotonic()
        self._ended = threading.Event()

    def begin(self, phase: str, bytes_total: int, tensors_total: int) -> None:
        if self._in_terminal and self.phase:
            self._report()
            self._stream.write("\n")
        super().begin(phase, bytes_total, tensors_total)
        self._started = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Report until the block ends."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            if self._in_terminal and self.phase:
                self._report()
                self._stream.write("\n")
                self._stream.flush()

    def _run(self) -> None:
        while not self._ended.wait(_TERMINAL_SECONDS if self._in_terminal else _LOG_SECONDS):
            if self.phase:
                self._report()

    def _report(self) -> None:
        with self._lock:
            line = describe(self, time.monotonic() - self._started)
        if self._in_terminal:
            filled = _BAR * self.bytes_done // max(self.bytes_total, 1)
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (_BAR - filled)}] {line}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


def describe(meter: Meter, seconds: float) -> str:
    """One line: the phase, tensors, bytes, rate and time left."""
    rate = meter.bytes_done / seconds if seconds > 0 else 0.0
    left = f"{(meter.bytes_total - meter.bytes_done) / rate:.0f} s left" if rate else "waiting"
    return (
        f"{meter.phase}: {meter.tensors_done}/{counted(meter.tensors_total, 'tensor')}, {human_size(meter.bytes_done)} "
        f"of {human_size(meter.bytes_total)}, {human_size(int(rate))}/s, {left}"
    )


def human_size(count: int) -> str:
    """Bytes in decimal units, three digits: 1.23 GB."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    for unit in units:
        if value < 999.5 or unit == units[-1]:
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
