"""The processes of a launch: finding all of them, and ending all of them.

Everything that a launch starts carries `SHARDLINE_LAUNCH=<run directory>` in its environment, so that it is
recognised whatever session or parent it has come to have. Only the user's own processes on this host are seen.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from shardline.base.errors import LaunchError
from shardline.launch.patience import PATIENT, Patience

MARKER = "SHARDLINE_LAUNCH"


@dataclass(frozen=True)
class LaunchProcesses:
    """All processes of the launches of one run directory, except the caller and what the caller descends from."""

    run_directory: Path
    patience: Patience = PATIENT

    @property
    def environment(self) -> dict[str, str]:
        """What marks a process, and everything that it starts, as one of these.

        SPT_NOENV keeps `setproctitle` from writing the title over the environment that the kernel shows.
        """
        return {MARKER: str(self.run_directory.resolve()), "SPT_NOENV": "1"}

    def alive(self) -> list[psutil.Process]:
        """Those that run now; zombies are over."""
        marker = str(self.run_directory.resolve())
        own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return [process for process in psutil.process_iter() if process.pid not in own and _carries(process, marker)]

    def end(self, grace_s: float, mpirun: subprocess.Popen[bytes] | None = None) -> list[int]:
        """SIGTERM to the ranks, after `grace_s` seconds SIGKILL to all, until none is left; returns whom it met.

        `mpirun`, the caller's child, isn't sent SIGTERM: it would kill the ranks a second later, and it ends by itself
        when they have. Raises `LaunchError` naming what even SIGKILL doesn't end.
        """
        alive = self.alive()
        ended = {process.pid for process in alive}
        ranks = [process for process in alive if mpirun is None or process.pid != mpirun.pid]
        _send(psutil.Process.terminate, ranks or alive)
        self._wait(grace_s, mpirun)
        deadline = time.monotonic() + self.patience.kill_s
        while left := self.alive():  # each round anew: a process may have forked before it was killed
            ended |= {process.pid for process in left}
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"processes {', '.join(str(process.pid) for process in left)} of {self.run_directory} survive "
                    "SIGKILL: a device driver or a network drive holds them; end them, or restart this host"
                )
            _send(psutil.Process.kill, left)
            self._wait(1, mpirun)
        return sorted(ended)

    def _wait(self, timeout_s: float, mpirun: subprocess.Popen[bytes] | None) -> None:
        deadline = time.monotonic() + timeout_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(self.patience.poll_s)
        if mpirun is not None:
            mpirun.poll()


def _carries(process: psutil.Process, marker: str) -> bool:
    try:
        return process.environ().get(MARKER) == marker and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # over by now, or another user's
        return False


def _send(signal: Callable[[psutil.Process], None], processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            signal(process)
