"""Which rank failed first, and how to say it.

The rank to name is the first that ended badly, not the last to complain: when one rank is gone, the others lose
their connections and end in errors of their own, or are told to go by mpirun. Every rank has a witness that records
its end (`shardline.launch.rank`); the earliest record counts, with two exceptions:

- A rank that fell silent, killed or crashed, counts before an exception of a little earlier: its peers notice the lost
  connection before its witness notices the end. After a crash a second is granted, since ranks that are told to go may
  crash as well. After SIGKILL more, for it is not mpirun's own: that takes the witness along, which records nothing
  (both Open MPIs), and the launch's comes three seconds after the first record at the earliest.
- A rank without any record, whose witness was killed too, counts first if mpirun names it as the first to fail.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shardline.base.errors import ConfigError, LaunchError, ShardlineError, class_of_kind
from shardline.launch import logs
from shardline.launch.rank_names import named
from shardline.launch.records import Failure, RankFolder, rank_folder

_LOG_LINES = 20
_LEAST_ROOM = 1 << 20
# Open MPI 4.1 and 5 word these alike; 5 breaks the lines elsewhere.
_SIGNALLED = re.compile(
    r"noticed that process rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+) exited on signal (?P<signal>\d+)"
)
_EXITED = re.compile(r"Process name: \[\S+?,(?P<rank>\d+)\] Exit code: (?P<code>\d+)")
_ERROR_LINE = re.compile(r"(?P<name>[A-Z]\w+): ")
_OF_THE_MACHINE = {"OSError", "PermissionError"}  # a full disk, a forbidden folder
_HINTS: dict[int, str] = {
    signal.SIGKILL: "SIGKILL comes from a person, or from the kernel when memory runs out: look into `dmesg`.",
    signal.SIGSEGV: "A crash in native code: the log holds the Python stack where it happened.",
    signal.SIGBUS: "SIGBUS often means that /dev/shm or the drive is full.",
}
_CRASH_NOTICED_LATE_S = 1.0
_KILL_NOTICED_LATE_S = 2.5
_COLLECTIVE = re.compile(r"AllReduce|AllGather|ReduceScatter|Broadcast|AlltoAll|collective", re.IGNORECASE)
_LOST_COLLECTIVE = (
    "A collective fails where a rank is missing or too late (MindSpore on the CPU waits 30 s): look into the other "
    "ranks' logs, and into their `stacks` for where they stood."
)


@dataclass(frozen=True)
class Launch:
    """What is known when all is over."""

    folder: Path
    world_size: int
    mpirun_log: Path
    mpirun_exit: int
    out_of_memory: bool = False

    def rank(self, number: int) -> RankFolder:
        return rank_folder(self.folder, number)

    def has_stopped(self) -> bool:
        """Whether all ranks left because they were told to, and had saved a shard set."""
        return all(self.rank(rank).has_stopped() for rank in range(self.world_size))

    def unfinished(self) -> list[int]:
        return [rank for rank in range(self.world_size) if not self.rank(rank).has_finished()]


def error(launch: Launch) -> ShardlineError:
    """What to raise: the rank, its host, how it ended, its last lines and what to do.

    Its class is that of the rank's own error where that is one of `shardline.base.errors`; a `LaunchError` otherwise.
    """
    failures = _failures(launch)
    named_by_mpirun = first_by_mpirun(_text(launch.mpirun_log))
    if named_by_mpirun is not None and named_by_mpirun.rank not in failures:
        return LaunchError(_silenced(launch, named_by_mpirun))
    if not failures:
        return LaunchError(_mpirun_failed(launch))
    first = _first(failures.values())
    return LaunchError(_silenced(launch, first)) if first.silent else _failed(launch, first, failures)


def first_by_mpirun(output: str) -> Failure | None:
    """The first failing rank by mpirun's own message, of Open MPI 4.1 or 5; None if it names none."""
    text = " ".join(output.split())
    if match := _SIGNALLED.search(text):
        return Failure(int(match["rank"]), match["host"], 0, 0, signal_number=int(match["signal"]), silent=True)
    if match := _EXITED.search(text):
        return Failure(int(match["rank"]), "", 0, int(match["code"]), silent=True)
    return None


def _first(failures: Iterable[Failure]) -> Failure:
    """The one that made the others fail: see the module's docstring."""

    def time(failure: Failure) -> float:
        return failure.time

    def late(failure: Failure) -> float:
        return _KILL_NOTICED_LATE_S if failure.signal_number == signal.SIGKILL else _CRASH_NOTICED_LATE_S

    causes = [failure for failure in failures if failure.signal_number != signal.SIGTERM] or list(failures)
    first = min(causes, key=time)
    silent = (failure for failure in causes if failure.silent and failure.time < first.time + late(failure))
    return min(silent, key=time, default=first)


def _failures(launch: Launch) -> dict[int, Failure]:
    found = {rank: launch.rank(rank).read_failure() for rank in range(launch.world_size)}
    return {rank: failure for rank, failure in found.items() if failure is not None}


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return ""


def _silenced(launch: Launch, failure: Failure) -> str:
    how, hint = f"left without finishing, with exit code {failure.exit_code}", ""
    if failure.signal_number:
        how = f"was ended by {signal_name(failure.signal_number)}"
        hint = _HINTS.get(failure.signal_number, "")
    if failure.signal_number == signal.SIGKILL and launch.out_of_memory:
        hint = "The kernel killed a process for want of memory meanwhile: use fewer ranks or a host with more."
    return _message(launch, failure.rank, f"rank {failure.rank}{_on(failure.host)} {how}", hint)


def _failed(launch: Launch, first: Failure, failures: dict[int, Failure]) -> ShardlineError:
    kind, said = _explained(launch, first)
    if said:
        alike = [rank for rank, failure in failures.items() if _explained(launch, failure) == (kind, said)]
        return kind(f"{named(alike)}{_on(first.host)}: {said}\nIts log: {launch.rank(first.rank).log}")
    how = f"left with exit code {first.exit_code}"
    if first.error:
        how = f"raised {': '.join(filter(None, (first.error, _first_words(first.message))))}"
    hint = _LOST_COLLECTIVE if _COLLECTIVE.search(first.message) else ""
    return LaunchError(_message(launch, first.rank, f"rank {first.rank}{_on(first.host)} {how}", hint))


def _first_words(message: str) -> str:
    """The first line of `message` that says something: MindSpore's begin with rules and headings between rules."""
    return next((line for line in message.splitlines() if line.strip() and not line.startswith("-")), "")


def _explained(launch: Launch, failure: Failure) -> tuple[type[ShardlineError], str]:
    """The class to raise and what the rank said; nothing where its error doesn't explain itself."""
    if kind := class_of_kind(failure.kind):
        own = "" if failure.error == failure.kind else f"{failure.error}: "
        return kind, f"{own}{failure.message}" or failure.kind
    return (LaunchError, "") if failure.error else _explained_in_log(launch.rank(failure.rank).log)


def _explained_in_log(log: Path) -> tuple[type[ShardlineError], str]:
    """What a program of the user's own, which recorded no error, printed last: `Name: message`, as a task does."""
    lines = logs.last_lines(log, 200)
    for number in reversed(range(len(lines))):
        match = _ERROR_LINE.match(lines[number])
        if match and (match["name"] in _OF_THE_MACHINE or class_of_kind(match["name"])):
            # A name in a text is not much to go by: enough to not try again, not to call the failure a good end.
            kind = ConfigError if match["name"] == ConfigError.__name__ else LaunchError
            return kind, "\n".join(lines[number:])
    return LaunchError, ""


def _mpirun_failed(launch: Launch) -> str:
    how = f"left with exit code {launch.mpirun_exit}"
    if launch.mpirun_exit < 0:
        how = f"was ended by {signal_name(-launch.mpirun_exit)}"
    unfinished = launch.unfinished()
    if launch.mpirun_exit == 0:
        return f"{named(unfinished)} didn't finish, although mpirun reports success; see the logs in {launch.folder}"
    lines = logs.last_lines(launch.mpirun_log, _LOG_LINES)
    return "\n".join(
        [f"mpirun {how}, and {named(unfinished)} didn't finish.", *_quoted(lines, launch.mpirun_log, "mpirun's")]
    )


def _message(launch: Launch, rank: int, what: str, hint: str) -> str:
    log = launch.rank(rank).log
    return "\n".join(
        [
            f"{what}.",
            *([hint] if hint else []),
            *_quoted(logs.last_lines(log, _LOG_LINES), log, f"rank {rank}'s"),
            "Repair the cause and try again: training goes on from the newest complete shard set.",
        ]
    )


def _quoted(lines: list[str], log: Path, whose: str) -> list[str]:
    if not lines:
        return [f"({whose} log is empty: {log}{_no_room(log)})"]
    return [f"The last lines of {whose} log, {log}:", *(f"  | {line}" for line in lines)]


def _no_room(log: Path) -> str:
    """That nothing could be written, where that may be why there is nothing."""
    free = shutil.disk_usage(log.parent).free if log.parent.is_dir() else _LEAST_ROOM
    return f"; {free} bytes are left on its drive: make room" if free < _LEAST_ROOM else ""


def signal_name(number: int) -> str:
    """`signal 9 (SIGKILL)`."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _on(host: str) -> str:
    return f" on {host}" if host else ""
