"""What the campaign can do to a task: the kinds of entries that `tests.campaign.faults` lists.

A fault comes at the `count`-th call `on` of the system whose path matches `path`, in the task's own process or in
`rank` of a training, of those of its `thread` where one is named; `act` says what happens there: `kill`, `term` or
`stop` (that process gets the signal), the name of an error of the system (ENOSPC), which that call and all later ones
like it then have, `short` (reads and writes move a few bytes each), `clock` (it is yesterday), `second` (the same task
is started once more, and waited for), `hold` (that thread stands still from then on), or `remove`, `rewrite`,
`truncate` of what `target`, a pattern in the run directory, or in the home of a command, matches. What happens while a
slice is written is said as a `share` of one that was written before, `target`: `cut` (the kernel kills the process when
so much is written), `limit` (no file may be larger: EFBIG), `fill` (the file system has so much room left).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KILLED, FAILS, SUCCEEDS = "killed", "fails", "succeeds"


@dataclass(frozen=True)
class Fault:
    """`message`, a regular expression, is found in what the task prints last where it fails. Of a training, `newest` is
    the shard set that is there then, and that the next try resumes from; 0 where there is none."""

    kind: str
    task: str
    act: str
    on: str = ""
    path: str = ""
    count: int = 1
    rank: int = 0
    target: str = ""
    ends: str = FAILS
    message: str = ""
    thread: str = ""
    share: float = 0.0
    newest: int = 0
    parameters: Mapping[str, object] = field(default_factory=dict)

    @property
    def seed(self) -> str | None:
        """What tells two faults of a kind apart."""
        return f"{self.share:.0%} of a slice" if self.share else None


@dataclass(frozen=True)
class Moment:
    """A task is killed at a moment that a seed draws: before one of the calls that it makes in the home, all of which
    were counted. That is the task's own process, or one of its ranks, which the seed draws as well; of a rank, any of
    its threads, or the one that is named."""

    kind: str
    task: str
    times: int
    in_a_rank: bool = False
    act: str = "kill"
    thread: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class FullDisk:
    """The home is a real file system, with room for a share of what the task writes there."""

    kind: str
    task: str
    shares: tuple[float, ...]
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """A process is killed: of a training, while its ranks stand still after their first shard set; of Airflow, at a
    moment that a seed draws, and whatever does not come back by itself is started again, as by systemd."""

    kind: str
    victim: str
    message: str = ""


@dataclass(frozen=True)
class LossWhileSaving:
    """A process of a training is killed while set 4 is saved behind it: the saving thread of a rank that a seed draws
    is held at one of `SAVING_CALLS`, the others have written their slices, there is no manifest, and training goes on.
    The seed draws the rank that is lost as well, which `message` calls RANK."""

    kind: str
    victim: str
    message: str = ""
    times: int = 2
