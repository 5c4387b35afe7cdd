"""A task with a fault in it, as `faults.py` says: `FAULT=JSON python -m tests.campaign.faulty --run-directory DIR`.

A fault `on` "any" comes at the `count`-th of all calls that are listened to; one that is to `count` leaves how many
there were in the folder `counted`, a file for each rank.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AUDITED = {"open": 0, "os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1}
"""Python's audit events by which of their arguments is the path."""
PATCHED = ("fsync", "pwritev", "preadv", "posix_fallocate", "copy_file_range")
FEW_BYTES = 100


class Injection:
    """The fault, and how often its call has come."""

    def __init__(self, fault: dict[str, Any]) -> None:
        self.fault, self.count = fault, 0
        self._acting = False

    def install(self) -> None:
        if self.fault["act"] == "cut":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python has it ignored
        if self.fault["act"] == "clock":
            now = time.time
            time.time = lambda: now() - 86_400
        elif self.fault["on"] in AUDITED:
            sys.addaudithook(self._audited)
        else:
            for name in PATCHED if self.fault["on"] == "any" else (self.fault["on"],):
                setattr(os, name, self._faulty(getattr(os, name)))
            if self.fault["on"] == "any":
                sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_meant = event in AUDITED if self.fault["on"] == "any" else event == self.fault["on"]
        if is_meant and not isinstance(arguments[AUDITED[event]], int):
            path = os.fsdecode(arguments[AUDITED[event]])
            if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
                path = str(Path(f"/proc/self/fd/{arguments[1]}").readlink() / path)
            self._called(path)

    def _faulty(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, *arguments: Any) -> Any:
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            self._called(path)
            if self.fault["act"] == "short" and re.search(self.fault["path"], path):
                ((view,), *rest) = arguments
                return genuine(descriptor, [view[:FEW_BYTES]], *rest)
            return genuine(descriptor, *arguments)

        return call

    def _called(self, path: str) -> None:
        is_elsewhere = self.fault["thread"] not in ("", threading.current_thread().name)
        if self._acting or is_elsewhere or not re.search(self.fault["path"], path):
            return
        self.count += 1
        if self.count == self.fault["count"] and self.fault["act"] != "count":
            self._acting = True
            act(self.fault)
            self._acting = False
        if self.count >= self.fault["count"] and self.fault["act"].startswith("E"):
            number = getattr(errno, self.fault["act"])
            raise OSError(number, os.strerror(number), path)


def act(fault: dict[str, Any]) -> None:
    """Do once what the fault does."""
    what, run = fault["act"], Path(fault["run"])
    if what in ("kill", "term", "stop"):
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}[what])
    elif what == "second":
        again = [sys.executable, "-m", fault["module"], *sys.argv[1:]]
        second = subprocess.run(again, capture_output=True, text=True, check=False)
        print(f"the second: {second.returncode}: {second.stderr}", file=sys.stderr, flush=True)
    elif what == "hold":
        Path(fault["held"]).touch()
        threading.Event().wait()
    targets = list(run.glob(fault["target"])) if fault["target"] else []
    assert targets or not fault["target"], f"{run}: nothing matches {fault['target']}"
    for target in targets:
        if what in ("cut", "limit", "fill"):
            leave_room(what, int(fault["share"] * target.stat().st_size), fault)
        else:
            change(target, what)


def leave_room(what: str, size: int, fault: dict[str, Any]) -> None:
    """For files of `size` bytes, or for so much on the whole file system, which `filler` takes the rest of."""
    if what != "fill":
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return
    with Path(fault["filler"]).open("wb") as file:
        while not has_filled(file.fileno(), size):
            pass


def has_filled(descriptor: int, size: int) -> bool:
    """Whether the file took what room there is but for `size` bytes: not where others took some of it meanwhile."""
    room = os.fstatvfs(descriptor)
    taken = room.f_bavail * room.f_frsize - size
    try:
        if taken > 0:
            os.posix_fallocate(descriptor, 0, taken)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def change(target: Path, what: str) -> None:
    """Remove, rewrite or cut what is at `target`."""
    if what == "remove" and target.is_dir():
        gone = target.rename(target.with_name(f".{target.name} that was removed"))  # at once: others write in it
        shutil.rmtree(gone)
        return
    if what == "remove":
        target.unlink()
        return
    target.chmod(0o644)
    middle = target.stat().st_size // 2
    if what == "truncate":
        os.truncate(target, middle)
        return
    with target.open("r+b") as file:
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


def main() -> None:
    """Run the fault's module, with the fault in it where this is the rank that is meant."""
    fault = json.loads(os.environ["FAULT"])
    rank, injection = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")), Injection(fault)
    if rank == fault["rank"] or fault["act"] == "count":
        injection.install()
    sys.argv[0] = fault["module"]
    try:
        runpy.run_module(fault["module"], run_name="__main__", alter_sys=True)
    finally:
        if fault["act"] == "count":
            (Path(fault["counted"]) / str(rank)).write_text(str(injection.count))


if __name__ == "__main__":
    main()
