"""What each rank leaves beside its log: that it started, and how it ended.

    log_output/1/rank.N/stdout          everything it printed
    log_output/1/rank.N/started.json    process id, host, time
    log_output/1/rank.N/finished.json   the module returned 0
    log_output/1/rank.N/stopped.json    the module left with STOPPED (`base.exit_codes`): told to stop, all saved
    log_output/1/rank.N/failure.json    the module raised or returned something else, or its process was ended
    log_output/1/rank.N/stacks          where its threads stood when it was told to go, or asked by SIGUSR1

Only the standard library is imported here: ranks load it first.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shardline.base import atomic


@dataclass(frozen=True)
class Started:
    """A rank's process. `time` is in seconds since 1970, as in the other records."""

    rank: int
    pid: int
    host: str
    time: float


@dataclass(frozen=True)
class Failure:
    """How a rank failed: by an exception, an exit code, or `silent`, without a word of the module.

    `error` is the exception's class and `message` its text; `kind` is the class of `shardline.base.errors` that it is,
    if any, which the launch raises in its turn. A silent one was ended by `signal_number`, or left past Python with
    `exit_code`, as native code does.
    """

    rank: int
    host: str
    time: float
    exit_code: int
    error: str = ""
    message: str = ""
    kind: str = ""
    signal_number: int = 0
    silent: bool = False


@dataclass(frozen=True)
class RankFolder:
    """Where one rank's log and records lie."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "stdout"

    @property
    def stacks(self) -> Path:
        return self.path / "stacks"

    def read_stacks(self) -> str:
        return self.stacks.read_text(errors="backslashreplace") if self.stacks.exists() else ""

    def write_started(self, started: Started) -> None:
        atomic.write_text(self.path / "started.json", json.dumps(asdict(started)))

    def write_failure(self, failure: Failure) -> None:
        atomic.write_text(self.path / "failure.json", json.dumps(asdict(failure)))

    def write_finished(self) -> None:
        atomic.write_text(self.path / "finished.json", json.dumps({"time": time.time()}))

    def write_stopped(self) -> None:
        atomic.write_text(self.path / "stopped.json", json.dumps({"time": time.time()}))

    def read_started(self) -> Started | None:
        document = self._read("started.json")
        return None if document is None else Started(**document)

    def read_failure(self) -> Failure | None:
        document = self._read("failure.json")
        return None if document is None else Failure(**document)

    def has_started(self) -> bool:
        return (self.path / "started.json").exists()

    def has_finished(self) -> bool:
        return (self.path / "finished.json").exists()

    def has_stopped(self) -> bool:
        return (self.path / "stopped.json").exists()

    def has_left_well(self) -> bool:
        """It did all that it was to do, or was told to stop and saved."""
        return self.has_finished() or self.has_stopped()

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        return document


def rank_folder(logs: Path, rank: int) -> RankFolder:
    """The folder of `rank` under the launch's log folder."""
    return RankFolder(logs / f"rank.{rank}")
