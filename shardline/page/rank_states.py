"""How each rank is, or how it ended: from the records that the launcher and the training leave beside its log.

log_output/1/rank.N/                   the training's newest try
log_output/validate/rank.0/            the validation's
log_output/earlier/K/NAME/rank.N/      try K of either
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.page.containment import Contained
from shardline.page.rank_log import last_lines
from shardline.run.directory import RunDirectory

SILENT_AFTER_S = 60.0
_RANK = re.compile(r"^rank\.(0|[1-9]\d{0,6})$")
_TASKS = {"1": "train", "validate": "validate"}
_MEASURED = ("step", "steps_per_second", "memory_bytes", "peak_memory_bytes", "collectives_seconds")


@dataclass(frozen=True)
class Try:
    """One try of a task that runs on ranks; `name` is its folder below log_output, `attempt` None for the newest."""

    name: str
    task: str
    attempt: int | None
    folder: Path

    def ranks(self) -> list[int]:
        """The ranks that left a folder."""
        matches = (_RANK.match(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def log(self, rank: int) -> Path:
        return self.folder / f"rank.{rank}" / "stdout"


def tries(files: Contained) -> list[Try]:
    """All tries: the newest of each task, then the earlier ones."""
    root = RunDirectory(files.root).logs.parent
    newest = [Try(name, task, None, root / name) for name, task in _TASKS.items()]
    earlier = [
        Try(f"earlier/{number}/{name}", task, number, root / "earlier" / str(number) / name)
        for number in _numbers(root / "earlier")
        for name, task in _TASKS.items()
    ]
    return [one for one in (*newest, *earlier) if files.path(one.folder).is_dir()]


def _numbers(folder: Path) -> list[int]:
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()) if folder.is_dir() else []


def describe_ranks(files: Contained, chosen: Try, *, running: bool) -> list[dict[str, Any]]:
    """One row a rank; `running` says whether the task still runs, so that a rank may."""
    return list(_rows(files, chosen, running, time.time()))


def _rows(files: Contained, chosen: Try, running: bool, now: float) -> Iterator[dict[str, Any]]:
    for rank in chosen.ranks():
        folder = chosen.folder / f"rank.{rank}"
        records = {
            name: files.document(folder / f"{name}.json")
            for name in ("started", "status", "failure", "finished", "stopped")
        }
        status, started = records["status"] or {}, records["started"] or {}
        failure = records["failure"]
        yield {
            "rank": rank,
            "state": _state(records, running, now),
            "host": started.get("host", status.get("host")),
            "pid": started.get("pid", status.get("pid")),
            "started": started.get("time"),
            "updated": status.get("time"),
            **{name: status.get(name) for name in _MEASURED},
            "failure": None if failure is None else _explain(failure),
            "last_lines": last_lines(files, chosen.log(rank), 1),
        }


def _state(records: dict[str, dict[str, Any] | None], running: bool, now: float) -> str:
    """failed, finished, stopped (told to, and saved), starting, running, silent (no word for a minute), or lost: ended
    without a word.
    """
    for ending, state in (("failure", "failed"), ("finished", "finished"), ("stopped", "stopped")):
        if records[ending] is not None:
            return state
    if not running:
        return "lost"
    status = records["status"]
    if records["started"] is None or status is None:
        return "starting" if records["started"] is None else "running"
    said = status.get("time")
    return "silent" if isinstance(said, int | float) and now - said > SILENT_AFTER_S else "running"


def _explain(failure: dict[str, Any]) -> str:
    if failure.get("error"):
        return f"{failure['error']}: {failure.get('message', '')}"
    if failure.get("signal_number"):
        return f"ended by signal {failure['signal_number']}"
    return f"left with exit code {failure.get('exit_code')}"
