"""A server that did not answer is let alone for a while: the file `unanswered` beside what it is to be told.

Who waited for it in vain leaves until when nobody waits again: `TIMES` as long as the wait was. So waiting for a server
that accepts and says nothing takes a hundredth of the tasks' time at most, however many tasks there are. One that
refuses connections is not waited for, and asked again at once.

    {"uri": "http://mlflow:5000", "until": 1795701600.0}
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shardline.base import atomic
from shardline.base.json_object import object_in

TIMES = 100
_SHORTEST_S = 0.1
"""Of a wait that is worth a file."""


@dataclass(frozen=True)
class Silence:
    """Of the server `uri`, in a folder that all tasks share; no wait is longer than `longest_s` seconds."""

    folder: Path
    uri: str
    longest_s: float

    def seconds_left(self) -> float:
        """How long nobody waits for the server; 0 where it may answer."""
        try:
            found = object_in(self._file.read_bytes()) or {}
        except OSError:
            return 0.0
        until = found.get("until")
        if found.get("uri") != self.uri or not isinstance(until, int | float):
            return 0.0
        left = until - time.time()
        return left if 0 < left <= TIMES * self.longest_s else 0.0  # or else the clock was set

    def begin(self, waited: float) -> None:
        """Nobody answered within `waited` seconds."""
        if waited < _SHORTEST_S:
            return
        until = time.time() + TIMES * min(waited, self.longest_s)
        with suppress(OSError):  # where it cannot be left, the next task waits as well
            atomic.write_text(self._file, json.dumps({"uri": self.uri, "until": until}) + "\n")

    def end(self) -> None:
        """It answered."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.folder / "unanswered"
