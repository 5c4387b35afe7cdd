"""One rank of a program of the user's own, under its witness.

The witness starts the program as a child, in a process group of its own: mpirun's signals reach the witness, which
passes on what is meant for the program. Everything that the program prints goes through the witness into the rank's
log, whose size it bounds, and in which it finds steps. It does not wait for children of the program that keep its
output open: the launch ends them.
"""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from shardline.base import atomic
from shardline.base.parent_death import send_on_parent_death
from shardline.launch.bounded_log import BoundedLog
from shardline.launch.program import Program
from shardline.launch.records import Failure, RankFolder, Started
from shardline.launch.step_lines import StepLines

_CHUNK = 64 * 1024
_GATHER_S = 0.05
_STATUS_EVERY_S = 2.0
_NOT_STARTED = 127
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def run_program(rank: int, folder: RankFolder) -> int:
    """Run the program to its end, record how it ended, and return its exit code, or the signal's number less than 0."""
    program = Program.read(folder.path)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become(program, writer)
    os.close(writer)
    _pass_signals_on(child, program.stop_signal)
    folder.write_started(Started(rank, child, platform.node(), time.time()))
    _Output(program, folder, child).copy(reader)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        folder.write_finished()
    else:
        end = Failure(rank, platform.node(), time.time(), max(code, 0), signal_number=max(-code, 0), silent=code < 0)
        folder.write_failure(end)
    return code


def _pass_signals_on(child: int, stop: int) -> None:
    """SIGUSR2 is the supervisor's "stop", SIGTERM is mpirun's; SIGUSR1 asks for stacks, which no program gives."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda _number, _frame: os.kill(child, stop))
    signal.signal(signal.SIGTERM, lambda _number, _frame: os.kill(child, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _become(program: Program, output: int) -> NoReturn:
    """Be the program, in this process."""
    try:
        send_on_parent_death(signal.SIGKILL)
        os.setpgid(0, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(program.working_directory)
        os.environ.update({"PYTHONUNBUFFERED": "1"} | program.environment)
        os.execvp(program.command[0], list(program.command))  # noqa: S606  replacing this process is the purpose
    except OSError as error:
        where = error.filename or program.command[0]
        os.write(2, f"LaunchError: {where} cannot be started: {error.strerror}\n".encode(errors="backslashreplace"))
    os._exit(_NOT_STARTED)


class _Output:
    """What the program prints, on its way into the log."""

    def __init__(self, program: Program, folder: RankFolder, child: int) -> None:
        self._log = BoundedLog(folder.log, program.largest_log)
        steps = program.steps
        self._steps = (
            None if steps is None else StepLines(Path(steps.metrics), steps.patterns, steps.keys, steps.last_step)
        )
        self._status = folder.path / "status.json"
        self._child = child
        self._told_at = 0.0
        self._counted_at, self._came = 0.0, 0
        self._began = (time.monotonic(), self._steps.last_step if self._steps else 0)

    def copy(self, reader: int) -> None:
        """Copy until the program has ended, and what it has printed by then.

        A line at a time would take a core from a rank for each: where they come slowly, several are waited for.
        """
        ended = os.pidfd_open(self._child)
        open_files = [reader, ended]
        while ended in open_files:
            ready, _, _ = select.select(open_files, [], [])
            if reader in ready:
                if not self._read(reader):
                    open_files.remove(reader)  # the program has closed its output, and may go on
                elif self._comes_slowly():
                    select.select([ended], [], [], _GATHER_S)
            elif ready == [ended]:
                open_files.remove(ended)
        os.set_blocking(reader, False)
        deadline = time.monotonic() + 1  # its children may print for ever
        while reader in open_files and time.monotonic() < deadline and self._read(reader):
            pass
        self._say_step(at_once=True)
        self._log.close()

    def _read(self, reader: int) -> bool:
        """Copy what has come; whether there may be more."""
        try:
            content = os.read(reader, _CHUNK)
        except BlockingIOError:
            return False
        self._came += len(content)
        self._log.write(content)
        if self._steps is not None and self._steps.feed(content):
            self._say_step()
        return bool(content)

    def _comes_slowly(self) -> bool:
        """Whether a pipe will hold what comes in the next moment, going by the last."""
        now = time.monotonic()
        if now - self._counted_at < _GATHER_S:
            return False
        slowly = self._came < _CHUNK // 2
        self._counted_at, self._came = now, 0
        return slowly

    def _say_step(self, *, at_once: bool = False) -> None:
        """Leave how far the program is, as the ranks of our own trainings do."""
        now = time.monotonic()
        if self._steps is None or (now - self._told_at < _STATUS_EVERY_S and not at_once):
            return
        began, first = self._began
        done = self._steps.last_step - first
        if not done:
            return
        self._told_at = now
        status = {
            "pid": self._child,
            "host": platform.node(),
            "time": time.time(),
            "step": self._steps.last_step,
            "steps_per_second": done / max(now - began, 1e-9),
        }
        try:
            atomic.write_text(self._status, json.dumps(status))
        except OSError as error:
            print(f"{self._status}: {error.strerror}", file=sys.stderr, flush=True)
