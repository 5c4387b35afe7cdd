"""Ranks without mpirun: one process, or as many as an msrun would start, and MindSpore's scheduler.

    python -m shardline.launch.own_processes --ranks N [--scheduler-port PORT] PROGRAM [ARGUMENT...]

What msrun does (MindSpore 2.10, `mindspore/parallel/cluster/process_entity`) is this: it starts the same command once
as the scheduler (`MS_ROLE=MS_SCHED`) and N times as a worker (`MS_ROLE=MS_WORKER`), which meet at MS_SCHED_HOST and
MS_SCHED_PORT. When a worker fails it kills the others and waits for the scheduler, which takes half a minute to notice.
Here the scheduler is ended with them. Otherwise this behaves to its ranks as mpirun does: it passes SIGUSR1 and SIGUSR2
on, it ends all when one fails, or when it is told to by SIGTERM, and its exit code is that of the first that failed.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from shardline.base.parent_death import send_on_parent_death
from shardline.launch.rank_number import OWN, SCHEDULER

_TERM_TO_KILL_S = 1.0
_SCHEDULER_LEAVES_S = 5.0
_RANKS_FAIL_TOO_S = 30.0
_CLUSTER_TIMEOUT_S = 600  # msrun's default of --cluster_time_out


def msrun_environment(role: str, number: int, ranks: int, port: int) -> dict[str, str]:
    """What msrun sets for one of its processes, on one host."""
    shared = {
        "MS_WORKER_NUM": str(ranks),
        "MS_SCHED_HOST": "127.0.0.1",
        "MS_SCHED_PORT": str(port),
        "MS_TOPO_TIMEOUT": str(_CLUSTER_TIMEOUT_S),
        "RANK_SIZE": str(ranks),
    }
    if role == SCHEDULER:
        return {**shared, "MS_ROLE": "MS_SCHED", "RANK_ID": "0"}
    own = str(number)
    return {**shared, "MS_ROLE": "MS_WORKER", "MS_NODE_ID": own, "RANK_ID": own, "DEVICE_ID": own}


class OwnProcesses:
    """The ranks, and the scheduler where there is one."""

    def __init__(self, program: Sequence[str], ranks: int, port: int | None) -> None:
        self._told: int | None = None
        self._heard: list[int] = []
        self._woken, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waking)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # wakes
        signal.signal(signal.SIGUSR1, self._hear)
        signal.signal(signal.SIGUSR2, self._hear)
        signal.signal(signal.SIGTERM, self._end)
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._ranks: list[subprocess.Popen[bytes]] = []
        if port is not None:
            environment = msrun_environment(SCHEDULER, 0, ranks, port)
            self._scheduler = _start(program, {OWN: SCHEDULER, **environment})
        for number in range(ranks):
            environment = {} if port is None else msrun_environment("worker", number, ranks, port)
            self._ranks.append(_start(program, {OWN: str(number), **environment}))

    @property
    def _all(self) -> list[subprocess.Popen[bytes]]:
        return [*self._ranks, *([self._scheduler] if self._scheduler else [])]

    def wait(self) -> int:
        """Wait until all ranks have ended well, or one badly; then none is left. The exit code of the whole."""
        while self._told is None:
            codes = [process.poll() for process in self._ranks]
            if failed := [code for code in codes if code]:
                return self._leave(_exit_code(failed[0]))
            if None not in codes:
                self._let_scheduler_leave()
                return self._leave(0)
            if self._scheduler and self._scheduler.poll():
                return self._leave(self._why_the_scheduler_left(self._scheduler.returncode))
            self._wait_for_news()
        return self._leave(128 + self._told)

    def _why_the_scheduler_left(self, code: int) -> int:
        """The exit code of a rank that fails as well, for it says more: a program that cannot be started, say."""
        deadline = time.monotonic() + _RANKS_FAIL_TOO_S
        while self._told is None and time.monotonic() < deadline:
            if failed := [process.returncode for process in self._ranks if process.poll()]:
                return _exit_code(failed[0])
            self._wait_for_news(deadline)
        print(f"the scheduler left with exit code {code}", file=sys.stderr, flush=True)
        return _exit_code(code)

    def _let_scheduler_leave(self) -> None:
        """When all ranks have left, the scheduler does, too."""
        deadline = time.monotonic() + _SCHEDULER_LEAVES_S
        while self._scheduler and self._scheduler.poll() is None and time.monotonic() < deadline:
            self._wait_for_news(deadline)

    def _leave(self, code: int) -> int:
        """End what still runs."""
        for process in self._all:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _TERM_TO_KILL_S
        while time.monotonic() < deadline and any(process.poll() is None for process in self._all):
            self._wait_for_news(deadline)
        for process in self._all:
            if process.poll() is None:
                process.kill()
                process.wait()
        return code

    def _wait_for_news(self, deadline: float | None = None) -> None:
        """Until a process ends or a signal comes, which is passed on: to look several times a second would take a core
        from the ranks."""
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        if select.select([self._woken], [], [], seconds)[0]:
            os.read(self._woken, 4096)
        while self._heard:
            number = self._heard.pop(0)
            for process in self._ranks:
                process.send_signal(number)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self._heard.append(number)  # it may come while ranks are being started, who would not hear it all

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._told = number


def _start(program: Sequence[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(program, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, start_new_session=True)


def _exit_code(code: int) -> int:
    return code if code > 0 else 128 - code


def main() -> int:
    """The command line."""
    send_on_parent_death(signal.SIGTERM)
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ranks", type=int, required=True)
    arguments.add_argument("--scheduler-port", type=int)
    arguments.add_argument("program", nargs=argparse.REMAINDER)
    given = arguments.parse_args()
    return OwnProcesses(given.program, given.ranks, given.scheduler_port).wait()


if __name__ == "__main__":
    sys.exit(main())
