"""The folders below which tasks read what a run's parameters name.

Whoever may trigger a run chooses paths that the worker reads: it must not read for them what the worker alone may, such
as its own environment. So each such path, with all symbolic links resolved, has to lie below HOME, which all runs
share, or below one of the folders of SHARDLINE_ALLOWED_ROOTS (separated by `:`), and be a regular file or a folder as
it is meant. What somebody types into a terminal is read with their own rights: it is not checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.base.pinned import Pinned, pin
from shardline.run.directory import Home

ROOTS = "SHARDLINE_ALLOWED_ROOTS"
_EARLIER_NAME = "SHARDLINE_MERGE_ROOTS"
_NEVER = tuple(map(Path, ("/proc", "/sys", "/dev")))
"""The kernel's own: not even where a setting allows all of `/`."""


@dataclass(frozen=True)
class AllowedRoots:
    """The folders below which tasks read."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, home: Home, environment: Mapping[str, str]) -> AllowedRoots:
        """The shared folder, and what SHARDLINE_ALLOWED_ROOTS adds."""
        settings = os.pathsep.join(environment.get(name, "") for name in (ROOTS, _EARLIER_NAME))
        added = [Path(root) for root in settings.split(os.pathsep) if root]
        return cls(tuple(path.resolve() for path in (home.path, *added)))

    def and_below(self, folder: Path) -> AllowedRoots:
        """These, and a folder that no parameter chose, its links resolved or of no account."""
        return AllowedRoots((*self.paths, folder))

    def allow(self, real: Path) -> bool:
        """Whether `real`, whose links are resolved, lies below a root."""
        return any(map(real.is_relative_to, self.paths)) and not any(map(real.is_relative_to, _NEVER))

    def file(self, path: Path, parameter: str) -> Path:
        """The regular file at `path`, its links resolved; `ConfigError` unless there is one, below a root."""
        with self._regular_file(path, parameter) as found:
            return found.real

    def read(self, path: Path, parameter: str, most: int) -> bytes:
        """The content of `file`; `ConfigError` as there, and where it has more than `most` bytes."""
        with self._regular_file(path, parameter) as found:
            try:
                with found.open() as file:
                    content = file.read(most + 1)
            except OSError as error:
                raise ConfigError(f"{parameter}: {path} cannot be read: {_reason(error)}") from None
        if len(content) > most:
            raise ConfigError(f"{parameter}: expected a file of at most {most} bytes, found more in {path}")
        return content

    def folder(self, path: Path, parameter: str, depth: int = 0) -> Path:
        """The folder at `path`, its links resolved; `ConfigError` unless there is one, below a root.

        No link in it, down to `depth` folders deep, may lead out of the roots either.
        """
        with self._found(path, parameter) as found:
            if not found.is_folder:
                raise ConfigError(f"{parameter}: expected a folder, found that {path} is none")
            real = found.real
        for link in _links(real, depth):
            self.check(link, parameter)
        return real

    def check(self, path: Path, parameter: str) -> Path:
        """`path` with its links resolved; `ConfigError` unless that is below a root. Nothing needs to be there."""
        real = real_path(path, parameter)
        self._refuse_outside(real, path, parameter)
        return real

    @contextmanager
    def _regular_file(self, path: Path, parameter: str) -> Iterator[Pinned]:
        with self._found(path, parameter) as found:
            if not found.is_file:
                raise ConfigError(f"{parameter}: expected a regular file, found that {path} is none")
            yield found

    @contextmanager
    def _found(self, path: Path, parameter: str) -> Iterator[Pinned]:
        """What is at `path`: looked at only where that is below a root, and again once it cannot change any more."""
        self.check(path, parameter)
        with _looked_up(path, parameter) as found:
            self._refuse_outside(found.real, path, parameter)
            yield found

    def _refuse_outside(self, real: Path, path: Path, parameter: str) -> None:
        if not self.allow(real):
            raise ConfigError(
                f"{parameter}: expected a path below {', '.join(map(str, self.paths))}, found {path}"
                f"{f', which is {real}' if real != path else ''}; "
                f"add its folder to {ROOTS} in the worker's environment, if it may be read"
            )


def real_path(path: Path, parameter: str) -> Path:
    """`path` with its links resolved; `ConfigError` where they lead nowhere."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ConfigError(f"{parameter}: {path!s} is no path that can be followed: {_reason(error)}") from None


def _looked_up(path: Path, parameter: str) -> Pinned:
    try:
        return pin(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{parameter}: there is no {path}, or it may not be read: {_reason(error)}") from None


def _links(folder: Path, depth: int) -> Iterator[Path]:
    if depth:
        for entry in os.scandir(folder):
            if entry.is_symlink():
                yield Path(entry)
            elif entry.is_dir(follow_symlinks=False):
                yield from _links(Path(entry), depth - 1)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
