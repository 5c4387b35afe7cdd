"""A job that stands still: noticing it, and showing where every rank stands."""

from __future__ import annotations

import re
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shardline.launch.logs import last_lines
from shardline.launch.patience import PATIENT, Patience
from shardline.launch.rank_names import named
from shardline.launch.records import RankFolder

_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$', re.MULTILINE)
_NOT_THE_TASKS = (sysconfig.get_path("stdlib"), sysconfig.get_path("platlib"), "<")


@dataclass
class Growth:
    """Watches files that grow while a job gets on: the ranks' logs, and the metrics with a line for every step.

    Of `begins`, one appears when the job has started up: until then nothing is said, however well it goes, while the
    framework is loaded and the network compiled. Without any, it is taken to have.
    """

    files: Sequence[Path]
    begins: Sequence[Path] = ()
    patience: Patience = PATIENT
    _has_begun: bool = False
    _sizes: list[int] = field(default_factory=list)
    _grown_at: float = field(default_factory=time.monotonic)
    _looked_at: float = 0

    def stands_still(self, limit_s: float) -> bool:
        """Whether the job has not got on for longer than `limit_s` seconds, or `start_up_s` while it starts up."""
        stalled = self.stalled_s()
        return stalled > (limit_s if self._has_begun else max(limit_s, self.patience.start_up_s))

    def stalled_s(self) -> float:
        """For how many seconds none of the files has grown, to `growth_poll_s` seconds."""
        now = time.monotonic()
        if now - self._looked_at >= self.patience.growth_poll_s:
            self._looked_at = now
            sizes = [_size(file) for file in self.files]
            begun = not self.begins or any(file.exists() for file in self.begins)
            if sizes != self._sizes or begun != self._has_begun:
                self._sizes, self._has_begun, self._grown_at = sizes, begun, now
        return now - self._grown_at


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


def last_words(ranks: Sequence[RankFolder]) -> str:
    """What each rank printed last, in a line; ranks that printed the same are named together, the fewest first."""
    said: dict[str, list[int]] = {}
    for number, rank in enumerate(ranks):
        said.setdefault(" ".join(last_lines(rank.log, 1, width=200)) or "(nothing)", []).append(number)
    groups = sorted(said.items(), key=lambda group: len(group[1]))
    return "\n".join(f"  {named(numbers)} printed last: {line}" for line, numbers in groups)


def where_ranks_stand(ranks: Sequence[RankFolder], ask: Callable[[], None], patience: Patience = PATIENT) -> str:
    """`ask` the ranks for their stacks, and say where each stands, in a line.

    Ranks that stand at the same place are named together, the fewest first: in a collective that is the one that the
    others wait for.
    """
    ask()
    _wait_for_answers(ranks, patience)
    places: dict[str, list[int]] = {}
    for number, rank in enumerate(ranks):
        places.setdefault(place(rank.read_stacks()), []).append(number)
    groups = sorted(places.items(), key=lambda group: len(group[1]))
    return "\n".join(f"  {named(numbers)}: {where}" for where, numbers in groups)


def _wait_for_answers(ranks: Sequence[RankFolder], patience: Patience) -> None:
    started = [rank for rank in ranks if rank.has_started()]
    deadline = time.monotonic() + patience.stacks_s
    while time.monotonic() < deadline and not all(rank.read_stacks() for rank in started):
        time.sleep(patience.poll_s)


def place(stacks: str) -> str:
    """Where the main thread of faulthandler's dump `stacks` stands: the task's innermost line, and what that called."""
    _, _, main_thread = stacks.rpartition("Current thread")
    frames = list(_FRAME.finditer(main_thread.partition("\n\n")[0]))
    if not frames:
        return "no answer; it is stopped, in a system call that does not end, or gone"
    own = next((frame for frame in frames if not frame["file"].startswith(_NOT_THE_TASKS)), frames[0])
    called = f", in {_spelt(frames[0])}" if own is not frames[0] else ""
    return _spelt(own) + called


def _spelt(frame: re.Match[str]) -> str:
    return f"{frame['function']} ({'/'.join(Path(frame['file']).parts[-2:])}:{frame['line']})"
