"""A program of the user's own as one rank: what to run, as the launch leaves it in the rank's folder.

Only the standard library is imported here: ranks load it first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shardline.base import atomic


@dataclass(frozen=True)
class Steps:
    """How the rank's lines tell steps (`shardline.launch.step_lines`)."""

    metrics: str
    patterns: Sequence[str]
    keys: dict[str, str]
    last_step: int


@dataclass(frozen=True)
class Program:
    """The command as its elements, never a shell's text; what the environment gets; and how it is told to stop."""

    command: Sequence[str]
    environment: dict[str, str]
    working_directory: str
    stop_signal: int
    largest_log: int
    steps: Steps | None = None

    def write(self, folder: Path) -> Path:
        """Leave it in the rank's `folder`, which may not be there yet; the file."""
        atomic.make_directory(folder)
        atomic.write_text(folder / "program.json", json.dumps(asdict(self), indent=1) + "\n")
        return folder / "program.json"

    @classmethod
    def read(cls, folder: Path) -> Program:
        """What is to be run as the rank of this `folder`."""
        document = json.loads((folder / "program.json").read_bytes())
        steps = document.pop("steps")
        return cls(**document, steps=None if steps is None else Steps(**steps))
