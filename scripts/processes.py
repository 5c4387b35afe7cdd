"""Processes that cannot outlive the one that started them.

Three nets, because each has a hole. The kernel sends SIGTERM to a started process when its parent dies, however that
happens (`setpriv --pdeathsig`), but only to that process. Stopping signals all descendants, but knows only those
whose parents still live. So this process declares itself their reaper (`PR_SET_CHILD_SUBREAPER`): orphans of orphans,
in whatever session or process group they put themselves, become its children and are found.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psutil

from shardline.launch.processes import MARKER

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(code)}")


def start(command: Sequence[str], variables: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that Ctrl-C reaches us alone; its output goes to the file `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def reap_orphans(started: Collection[int]) -> None:
    """Collect the adopted processes that have ended, so that no zombie stays; not those `started` here, by id."""
    for child in psutil.Process().children():
        if child.pid not in started and child.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(child.pid, os.WNOHANG)


def stop_descendants(grace: float = 10.0) -> None:
    """End every descendant: SIGTERM, `grace` seconds to obey, then SIGKILL until none is left.

    The ranks of a launch, and their mpirun, are left to the launch: it has them save a shard set first.
    """
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        if not _belongs_to_a_launch(process):
            _signal(process, "terminate")
    psutil.wait_procs(descendants, timeout=grace)
    while left := psutil.Process().children(recursive=True):
        for process in left:
            _signal(process, "kill")
        psutil.wait_procs(left, timeout=grace)


def _belongs_to_a_launch(process: psutil.Process) -> bool:
    try:
        return MARKER in process.environ()
    except psutil.Error:
        return False  # it ended by itself meanwhile


def _signal(process: psutil.Process, method: str) -> None:
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return  # it ended by itself meanwhile
