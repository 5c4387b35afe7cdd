"""Processes that don't outlive the one that started them.

`prctl(PR_SET_PDEATHSIG)` has the kernel send a signal when the parent *thread* ends; it survives `exec`, and is
cleared in children (prctl(2)). Run as a script this file ties any program to its parent, without running Python
between `fork` and `exec` in the parent:

    python parent_death.py PARENT_PID SIGNAL_NUMBER PROGRAM [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def send_on_parent_death(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def die_with_parent(parent: int, signal_number: int) -> None:
    """End by `signal_number` when `parent` ends, also when it ended before this call."""
    send_on_parent_death(signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - replacing this process is the purpose
