"""Which rank failed first, and how to say it.

The rank to name is the first that ended badly, not the last to complain: when one rank is gone, the others lose
their connections and end in errors of their own, or are killed by mpirun. The witnesses, the best first:

1. mpirun names the first process that it saw end badly. Such a rank, when it left no record, was killed from
   outside or crashed, and whatever others recorded is a consequence.
2. The supervisor saw a rank gone without any record, and nobody had told it to go. mpirun says nothing where that
   rank left with exit code 0, and version 5 now and then hangs instead of saying anything.
3. `failure.json` of the ranks whose module raised or returned an exit code: the earliest.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError, LaunchError, ShardlineError
from tasks.launch import logs
from tasks.launch.ranks import named
from tasks.launch.records import Failure, RankFolder, rank_folder

_LOG_LINES = 20
# Open MPI 4.1 and 5 word these alike; 5 breaks the lines elsewhere.
_SIGNALLED = re.compile(
    r"noticed that process rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+) exited on signal (?P<signal>\d+)"
)
_EXITED = re.compile(r"Process name: \[\S+?,(?P<rank>\d+)\] Exit code: (?P<code>\d+)")
_ERROR_LINE = re.compile(r"(?P<name>[A-Z]\w+): ")
_OF_THE_MACHINE = {"OSError", "PermissionError"}  # a full disk, a forbidden folder
_HINTS = {
    signal.SIGKILL: "SIGKILL comes from a person, or from the kernel when memory runs out: look into `dmesg`.",
    signal.SIGSEGV: "A crash in native code: the log holds the Python stack where it happened.",
    signal.SIGBUS: "SIGBUS often means that /dev/shm or the drive is full.",
}

_COLLECTIVE = re.compile(r"AllReduce|AllGather|ReduceScatter|Broadcast|AlltoAll|collective", re.IGNORECASE)
_LOST_COLLECTIVE = (
    "A collective fails where a rank is missing or too late (MindSpore on the CPU waits 30 s): look into the other "
    "ranks' logs, and into their `stacks` for where they stood."
)


@dataclass(frozen=True)
class Ended:
    """How mpirun saw its first failing rank end: by `signal_number`, or else with `exit_code`."""

    rank: int
    host: str = ""
    exit_code: int = 0
    signal_number: int = 0


@dataclass(frozen=True)
class Launch:
    """What is known when all is over: mpirun's exit code, and the ranks that were seen gone without a record."""

    folder: Path
    world_size: int
    mpirun_log: Path
    mpirun_exit: int
    vanished: Sequence[int] = ()
    out_of_memory: bool = False

    def rank(self, number: int) -> RankFolder:
        return rank_folder(self.folder, number)

    def unfinished(self) -> list[int]:
        return [rank for rank in range(self.world_size) if not self.rank(rank).has_finished()]


def error(launch: Launch) -> ShardlineError:
    """What to raise: the rank, its host, how it ended, its last lines and what to do.

    A `ConfigError` where that is what the rank raised, since trying again can't help; a `LaunchError` otherwise.
    """
    message = _explain(launch)
    return ConfigError(message) if ": ConfigError: " in message.partition("\n")[0] else LaunchError(message)


def _explain(launch: Launch) -> str:
    failures = _failures(launch)
    ended, gone = ended_first(_text(launch.mpirun_log)), _gone_first(launch)
    if ended is None or (gone is not None and launch.rank(ended.rank).was_told_to_go()):
        ended = gone
    if ended is not None and ended.rank not in failures:
        return _killed(launch, ended)
    if failures:
        return _failed(launch, min(failures.values(), key=lambda failure: failure.time), failures)
    return _mpirun_failed(launch)


def ended_first(mpirun_output: str) -> Ended | None:
    """The first failing rank by mpirun's own message, of Open MPI 4.1 or 5; None if it names none."""
    text = " ".join(mpirun_output.split())
    if match := _SIGNALLED.search(text):
        return Ended(int(match["rank"]), match["host"], signal_number=int(match["signal"]))
    if match := _EXITED.search(text):
        return Ended(int(match["rank"]), exit_code=int(match["code"]))
    return None


def _gone_first(launch: Launch) -> Ended | None:
    return next((Ended(rank) for rank in launch.vanished if not launch.rank(rank).was_told_to_go()), None)


def _failures(launch: Launch) -> dict[int, Failure]:
    found = {rank: launch.rank(rank).read_failure() for rank in range(launch.world_size)}
    return {rank: failure for rank, failure in found.items() if failure is not None}


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return ""


def _killed(launch: Launch, ended: Ended) -> str:
    started = launch.rank(ended.rank).read_started()
    host = ended.host or (started.host if started else "")
    how, hint = "ended without finishing", ""
    if ended.signal_number:
        how = f"was ended by {signal_name(ended.signal_number)}"
        hint = _HINTS.get(signal.Signals(ended.signal_number), "") if ended.signal_number < 32 else ""
        if ended.signal_number == signal.SIGKILL and launch.out_of_memory:
            hint = "The kernel killed a process for want of memory meanwhile: use fewer ranks or a host with more."
    elif ended.exit_code:
        how = f"left with exit code {ended.exit_code}"
    return _message(launch, ended.rank, f"rank {ended.rank}{_on(host)} {how}", hint)


def _failed(launch: Launch, first: Failure, failures: dict[int, Failure]) -> str:
    said = _explained(launch, first)
    if said is not None:
        alike = [rank for rank, failure in failures.items() if _explained(launch, failure) == said]
        return f"{named(alike)}{_on(first.host)}: {said}\nIts log: {launch.rank(first.rank).log}"
    how = f"left with exit code {first.exit_code}"
    if first.error:
        how = f"raised {': '.join(filter(None, (first.error, _first_words(first.message))))}"
    hint = _LOST_COLLECTIVE if _COLLECTIVE.search(first.message) else ""
    return _message(launch, first.rank, f"rank {first.rank}{_on(first.host)} {how}", hint)


def _first_words(message: str) -> str:
    """The first line of `message` that says something: MindSpore's begin with rules and headings between rules."""
    return next((line for line in message.splitlines() if line.strip() and not line.startswith("-")), "")


def _explained(launch: Launch, failure: Failure) -> str | None:
    """`Name: message` as `tasks.command_line` prints it last before a task returns its code; None if it isn't one."""
    known = {ShardlineError.__name__, *_names_below(ShardlineError), *_OF_THE_MACHINE}
    if failure.error:
        return f"{failure.error}: {failure.message}" if failure.error in known - _OF_THE_MACHINE else None
    lines = logs.last_lines(launch.rank(failure.rank).log, 200)
    for number in reversed(range(len(lines))):
        match = _ERROR_LINE.match(lines[number])
        if match and match["name"] in known:
            return "\n".join(lines[number:])
    return None


def _names_below(error: type[Exception]) -> set[str]:
    return {name for child in error.__subclasses__() for name in (child.__name__, *_names_below(child))}


def _mpirun_failed(launch: Launch) -> str:
    how = f"left with exit code {launch.mpirun_exit}"
    if launch.mpirun_exit < 0:
        how = f"was ended by {signal_name(-launch.mpirun_exit)}"
    unfinished = launch.unfinished()
    if launch.mpirun_exit == 0:
        what = f"{named(unfinished)} ended without finishing, although mpirun reports success"
        return _message(launch, unfinished[0], what, "")
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
            "Mend the cause and try again: training goes on from the newest complete shard set.",
        ]
    )


def _quoted(lines: list[str], log: Path, whose: str) -> list[str]:
    if not lines:
        return [f"({whose} log is empty: {log})"]
    return [f"The last lines of {whose} log, {log}:", *(f"  | {line}" for line in lines)]


def signal_name(number: int) -> str:
    """`signal 9 (SIGKILL)`."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _on(host: str) -> str:
    return f" on {host}" if host else ""
