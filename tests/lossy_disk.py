"""A disk that loses and reorders whatever was not flushed, below one folder, for whatever this process does there.

The files are real. Python's audit events say which names are about to change, and a recorder of fsync what is on disk.
A disk that is told to `die` at its n-th call raises `Died` there, and holds from then on what would be found after it:

- `KILLED`: the process was. All that it wrote is there; of a file that it was just writing, perhaps the first part.
- a power failure: of a folder, the names that it had when it was flushed, and any of the changes since, without regard
  to their order; of a file, what it held when it was flushed, or what it holds, or the first part of that, or zeros.
  A folder is flushed by nothing but fsync of that folder, a new file's name neither with the file nor with another's.

Names that one call changes in one folder change together. No file system forgets more than this, some much less.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

KILLED = "killed"
NOTHING, EVERYTHING = "power failure, nothing unflushed is left", "power failure, names alone are left"
LOSSES = (KILLED, NOTHING, EVERYTHING, "power failure, some is left")

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_active: list[LossyDisk] = []
Entry = int | str
"""What a name stands for: the number of a file or folder, or where a symbolic link leads."""


class Died(BaseException):
    """The process ends here."""


@dataclass
class _File:
    descriptor: int
    flushed: bytes = b""

    def content(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)


@dataclass
class _Folder:
    descriptor: int
    seen: dict[str, Entry] = field(default_factory=dict)
    flushed: dict[str, Entry] = field(default_factory=dict)
    changes: list[dict[str, Entry | None]] = field(default_factory=list)
    """What became of names since, one call after another."""


@dataclass(frozen=True)
class _Left:
    """A file that is left, or a folder (no content), or a symbolic link (a text)."""

    path: str
    content: bytes | str | None
    mode: int = 0
    modified_ns: int = 0


class LossyDisk:
    """What lies below `root`, an empty folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.calls = 0
        self._files: dict[int, _File] = {}
        self._folders: dict[int, _Folder] = {}
        self._touched: set[Path] = set()
        self._opened: int | None = None
        self._death: tuple[int, str, random.Random] | None = None
        self._left: list[_Left] | None = None
        self._lock = threading.RLock()
        self._paused = False
        self._register(self.root)

    def dies(self, at: int | None, loss: str, seed: int, operation: Callable[[], object]) -> bool:
        """Do `operation`; whether it died before the `at`-th of its calls that change something. Then restarts."""
        self.calls, self._left = 0, None
        self._death = None if at is None else (at, loss, random.Random(seed))
        try:
            operation()
        except BaseException:
            if self._left is None:
                raise
        finally:
            self._death = None
        died = self._left is not None
        if self._left is not None:
            self._restart(self._left)
        return died

    def close(self) -> None:
        """Forget all that is there."""
        for entry in (*self._files.values(), *self._folders.values()):
            os.close(entry.descriptor)
        self._files, self._folders = {}, {}

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python is about to do `event`."""
        paths = [path for path in _changed(event, arguments) if self._has(path)]
        if not paths or self._paused:
            return
        with self._lock:
            self._step()
            self._touched = {path.parent for path in paths}
            if event == "open":
                self._opened = _number(paths[0])
                if self._opened is None:
                    self._touched.add(paths[0])  # its number is known when it is there

    def flush(self, descriptor: int, fsync: Callable[[int], None]) -> None:
        """The file or folder `descriptor` is about to be flushed, by `fsync`."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if self._paused or not self._has(path):
            fsync(descriptor)
            return
        with self._lock:
            self._step()
            self._settle()
            self._scan(path if path.is_dir() else path.parent)
            number = os.fstat(descriptor).st_ino
            if number in self._files:
                self._files[number].flushed = self._files[number].content()
            if folder := self._folders.get(number):
                folder.flushed, folder.changes = dict(folder.seen), []

    def _has(self, path: Path) -> bool:
        return path == self.root or str(path).startswith(f"{self.root}/")

    def _step(self) -> None:
        """Another call that changes something; `Died` where it is the last."""
        if self._left is not None:
            return
        self._settle()
        self.calls += 1
        if self._death is not None and self.calls == self._death[0]:
            for folder, _, _ in os.walk(self.root):
                self._scan(Path(folder))
            self._left = self._remains(*self._death[1:])
            raise Died
        self._opened = None

    def _settle(self) -> None:
        """See what the call before did."""
        for path in self._touched:
            folder = path if path.is_dir() else path.parent
            if folder.is_dir():
                self._scan(folder)
            if path.is_file():
                self._opened = _number(path)
        self._touched = set()

    def _scan(self, path: Path) -> None:
        """See what the folder at `path` holds."""
        folder = self._folders[self._register(path)]
        now = {entry.name: self._entry(entry) for entry in os.scandir(path)}
        change: dict[str, Entry | None] = {name: None for name in folder.seen if name not in now}
        change |= {name: entry for name, entry in now.items() if folder.seen.get(name) != entry}
        if change:
            folder.changes.append(change)
            folder.seen = now

    def _entry(self, entry: os.DirEntry[str]) -> Entry:
        if entry.is_symlink():
            return str(Path(entry.path).readlink())
        number = entry.stat().st_ino
        return number if number in self._files or number in self._folders else self._register(Path(entry.path))

    def _register(self, path: Path) -> int:
        """The number of what is at `path`, which nothing else gets while its descriptor is open."""
        status = path.stat()
        number = status.st_ino
        if number not in self._files and number not in self._folders:
            descriptor = os.open(path, os.O_RDONLY)
            if stat.S_ISDIR(status.st_mode):
                self._folders[number] = _Folder(descriptor)
            else:
                self._files[number] = _File(descriptor)
        return number

    def _remains(self, loss: str, chance: random.Random) -> list[_Left]:
        left: list[_Left] = []
        self._remains_of(self.root.stat().st_ino, "", loss, chance, left)
        return left

    def _remains_of(self, number: int, path: str, loss: str, chance: random.Random, left: list[_Left]) -> None:
        for name, entry in sorted(self._names(self._folders[number], loss, chance).items()):
            below = f"{path}{name}"
            if isinstance(entry, str):
                left.append(_Left(below, entry))
            elif entry in self._folders:
                left.append(_Left(below, None))
                self._remains_of(entry, f"{below}/", loss, chance, left)
            else:
                status = os.fstat(self._files[entry].descriptor)
                content = self._content(entry, loss, chance)
                left.append(_Left(below, content, stat.S_IMODE(status.st_mode), status.st_mtime_ns))

    def _names(self, folder: _Folder, loss: str, chance: random.Random) -> dict[str, Entry]:
        names: dict[str, Entry | None] = {**folder.flushed}
        for change in folder.changes:
            if loss in (KILLED, EVERYTHING) or (loss != NOTHING and chance.random() < 0.5):
                names |= change
        return {name: entry for name, entry in names.items() if entry is not None}

    def _content(self, number: int, loss: str, chance: random.Random) -> bytes:
        flushed, now = self._files[number].flushed, self._files[number].content()
        first_part = now[: chance.randint(0, len(now))]
        if loss == KILLED:
            return first_part if number == self._opened and now != flushed else now
        if loss in (NOTHING, EVERYTHING) or now == flushed:
            return flushed
        return chance.choice([flushed, now, first_part, bytes(len(now))])

    def _restart(self, left: list[_Left]) -> None:
        """Have what is `left`, and nothing else, on the disk."""
        self._paused = True
        self.close()
        for entry in self.root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for each in left:
            _write(self.root / each.path, each)
        self._left, self._touched, self._opened = None, set(), None
        for path, _, _ in os.walk(self.root):
            self._scan(Path(path))
        for number, file in self._files.items():
            self._files[number].flushed = file.content()
        for folder in self._folders.values():
            folder.flushed, folder.changes = dict(folder.seen), []
        self._paused = False


@contextmanager
def mounted(root: Path) -> Iterator[LossyDisk]:
    """`root`, a new folder, as such a disk while the block runs."""
    disk, flush = LossyDisk(root), os.fsync

    def fsync(file: Any) -> None:
        disk.flush(file if isinstance(file, int) else file.fileno(), flush)

    _listen()
    os.fsync = fsync
    _active.append(disk)
    try:
        yield disk
    finally:
        _active.remove(disk)
        os.fsync = flush
        disk.close()


def _changed(event: str, arguments: tuple[Any, ...]) -> list[Path]:
    """The paths whose names or contents an audit event changes."""
    if event == "open":
        path, _, flags = arguments
        return [_path(path)] if not isinstance(path, int) and path is not None and flags & _WRITING else []
    if event == "os.rename":
        return [_path(arguments[0], arguments[2]), _path(arguments[1], arguments[3])]
    if event in ("os.remove", "os.rmdir"):
        return [_path(arguments[0], arguments[1])]
    if event == "os.mkdir":
        return [_path(arguments[0], arguments[2])]
    return [_path(arguments[1])] if event in ("os.link", "os.symlink") else []


def _path(argument: Any, folder: int = -1) -> Path:
    below = f"/proc/self/fd/{folder}"
    path = os.path.join(os.readlink(below) if folder >= 0 else "", os.fsdecode(argument))  # noqa: PTH115, PTH118
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links


def _number(path: Path) -> int | None:
    return path.stat().st_ino if path.is_file() else None


def _write(path: Path, left: _Left) -> None:
    if left.content is None:
        path.mkdir()
    elif isinstance(left.content, str):
        path.symlink_to(left.content)
    else:
        path.write_bytes(left.content)
        path.chmod(left.mode)
        os.utime(path, ns=(left.modified_ns, left.modified_ns))


@cache  # an audit hook cannot be removed
def _listen() -> None:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" or event.startswith("os."):
            for disk in _active:
                disk.heard(event, arguments)

    sys.addaudithook(hear)
