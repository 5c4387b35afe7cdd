"""Which process a number means: process ids are used again, and each container counts its own.

A process is told apart by its id and the moment of its start, where it can be seen from: a host that has been started
once (its boot id), and a process id namespace there. Containers that share a host's name do not share that.
"""

from __future__ import annotations

import hashlib
import os
import socket
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def place() -> str:
    """Where this process's id counts, as 16 hexadecimal digits."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = Path("/proc/self/ns/pid").readlink()
    return hashlib.sha256(f"{socket.gethostname()} {boot} {namespace}".encode()).hexdigest()[:16]


def started(pid: int) -> int | None:
    """When the process `pid` of this place began, in clock ticks since the host did; `None` where none runs."""
    try:
        # The name, in parentheses, may hold anything: what follows it is counted from behind.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # fields 3 and 22 of proc(5), the name being the second


def own() -> str:
    """This process, in letters that fit into a file's name: `PID-STARTED@PLACE`."""
    pid = os.getpid()
    return f"{pid}-{started(pid)}@{place()}"
