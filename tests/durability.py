"""What would be left if the power failed: a recorder of fsync, and of the names that files and folders get.

A name is durable when what it names was flushed before the name was given, byte for byte and with all that a folder
holds, and when the folder that holds the name was flushed afterwards; so were those above it, where they are new.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_NAMES = {"os.rename": 1, "os.link": 1, "os.symlink": 1, "os.mkdir": 0}
_REMOVES = ("os.remove", "os.rmdir")
_active: list[Durability] = []


@dataclass(frozen=True)
class Event:
    """`path` was flushed, named or removed; `unflushed` lists what a new name named that was not on disk."""

    kind: str
    path: Path
    unflushed: tuple[Path, ...] = ()


@dataclass
class Durability:
    """What happened below `root`, in order."""

    root: Path
    events: list[Event] = field(default_factory=list)
    _flushed: dict[int, object] = field(default_factory=dict)
    """By inode, what was in a file, or which inodes a folder named, when it was last flushed."""

    def check(self, *paths: Path) -> None:
        """Each of `paths` got its name durably."""
        for path in paths:
            event = self.events[self._last("name", path)]
            assert not event.unflushed, f"{path} was named before this was flushed: {event.unflushed}"
            self.durable_since(path)

    def check_order(self, first: Path, then: Path) -> None:
        """`first` was durable before `then` was named."""
        since, named = self.durable_since(first), self._last("name", then)
        assert since < named, f"{then} was named before the name {first} was flushed"

    def check_removed_before(self, first: Path, then: Path) -> None:
        """That `first` is gone was on disk before `then` was removed."""
        since, removed = self._flush_after(self._last("remove", first), first.parent), self._last("remove", then)
        assert since < removed, f"{then} was removed before it was on disk that {first} is gone"

    def check_flushed_before(self, path: Path, then: Path) -> None:
        """`path`, written in place, was flushed before `then` was named; a file, as it is now."""
        assert Event("flush", path) in self.events[: self._last("name", then)], f"{path} was not flushed before {then}"
        assert path.is_dir() or not [*self._unflushed(path)], f"{path} was changed after it was flushed"

    def durable_since(self, path: Path) -> int:
        """The number of the event since which the name `path` has been on disk."""
        since = self._flush_after(self._last("name", path), path.parent)
        above = path.parent
        while above != self.root:
            if Event("name", above) in self.events:
                since = max(since, self._flush_after(self._last("name", above), above.parent))
            above = above.parent
        return since

    def _last(self, kind: str, path: Path) -> int:
        found = [number for number, event in enumerate(self.events) if (event.kind, event.path) == (kind, path)]
        assert found, f"{path}: expected that it would be the object of {kind}; there were {self.events}"
        return found[-1]

    def _flush_after(self, number: int, folder: Path) -> int:
        for later in range(number + 1, len(self.events)):
            if self.events[later] == Event("flush", folder):
                return later
        raise AssertionError(f"{folder} was not flushed after {self.events[number]}; there were {self.events}")

    def heard(self, kind: str, arguments: tuple[Any, ...]) -> None:
        """Python is about to do `kind`, an audit event of `os`."""
        if kind in _NAMES:
            source, path = _path(arguments[0]), _path(arguments[_NAMES[kind]])
            if self._is_below(path):
                moved = source if kind in ("os.rename", "os.link") else None
                self.events.append(Event("name", path, tuple(self._unflushed(moved)) if moved else ()))
        elif kind in _REMOVES and self._is_below(_path(arguments[0])) and os.path.lexists(arguments[0]):
            self.events.append(Event("remove", _path(arguments[0])))

    def flushed(self, descriptor: int) -> None:
        """The open file or folder `descriptor` has been flushed."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.exists() and (path == self.root or self._is_below(path)):
            self._flushed[os.fstat(descriptor).st_ino] = _state(path)
            self.events.append(Event("flush", path))

    def _is_below(self, path: Path) -> bool:
        return self.root in path.parents

    def _unflushed(self, path: Path) -> Iterator[Path]:
        if path.is_symlink() or not path.exists():
            return
        if self._flushed.get(path.stat().st_ino) != _state(path):
            yield path
        if path.is_dir():
            for entry in path.iterdir():
                yield from self._unflushed(entry)


@contextmanager
def recorded(root: Path) -> Iterator[Durability]:
    """Record what this process does below `root`, which is there, while the block runs."""
    recorder = Durability(root.resolve())
    flush = os.fsync

    def fsync(file: Any) -> None:
        flush(file)
        recorder.flushed(file if isinstance(file, int) else file.fileno())

    _listen()
    os.fsync = fsync
    _active.append(recorder)
    try:
        yield recorder
    finally:
        _active.remove(recorder)
        os.fsync = flush


def _path(argument: Any) -> Path:
    return Path(os.path.abspath(os.fsdecode(argument)))  # noqa: PTH100  # resolve() would follow a symbolic link


def _state(path: Path) -> object:
    if path.is_dir():
        return {entry.name: entry.inode() for entry in os.scandir(path)}
    return hashlib.sha256(path.read_bytes()).digest()


@cache  # an audit hook cannot be removed
def _listen() -> None:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        for recorder in _active:
            recorder.heard(event, arguments)

    sys.addaudithook(hear)
