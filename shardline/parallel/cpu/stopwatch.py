"""Time in which at least one thing of a kind was under way."""

from __future__ import annotations

import threading
import time
from types import TracebackType


class Stopwatch:
    """The seconds in which at least one block that was entered had not been left, on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun, self._since, self._seconds = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Until now, without what has begun and not ended."""
        return self._seconds

    def __enter__(self) -> None:
        with self._lock:
            if not self._begun:
                self._since = time.perf_counter()
            self._begun += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._begun -= 1
            if not self._begun:
                self._seconds += time.perf_counter() - self._since
