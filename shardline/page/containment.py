"""Files below one folder, and nothing else, wherever names and symbolic links lead.

A run directory is written by training code, which is the user's; what reads it may run as somebody else. So a file is
opened first, and then the kernel is asked what was opened: between a check and an opening, a link could be changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shardline.base.errors import RunDirectoryError
from shardline.base.pinned import pin

LARGEST_DOCUMENT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Contained:
    """The files below `root`, which is a real folder: made by `below`."""

    root: Path

    @classmethod
    def below(cls, folder: Path, root: Path) -> Contained:
        """The files of `folder`; `RunDirectoryError` where it is none, or a link leads it out of `root`."""
        real = _real(folder)
        if not real.is_relative_to(root.resolve()):
            raise RunDirectoryError(f"{folder} leads out of {root}, to {real}; a run's folder must lie in it")
        if not real.is_dir():
            raise RunDirectoryError(f"{folder} is no folder; has the run's first task started?")
        return cls(real)

    def open(self, path: Path) -> BinaryIO:
        """The regular file at `path`, open for reading; `FileNotFoundError`, or `RunDirectoryError` if it may not
        or cannot be read.
        """
        try:
            pinned = pin(path)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # a link in a circle, a folder that is a file, no permission
            raise RunDirectoryError(f"{path} cannot be read: {error}") from error
        with pinned as found:
            if not found.real.is_relative_to(self.root):
                raise RunDirectoryError(f"{path} leads out of {self.root}, to {found.real}; it is not read")
            if not found.is_file:
                raise RunDirectoryError(f"{path} is no regular file; it is not read")
            return found.open()

    def path(self, path: Path) -> Path:
        """`path` with its links resolved, for a reader that opens it itself; `RunDirectoryError` if outside."""
        real = _real(path)
        if not real.is_relative_to(self.root):
            raise RunDirectoryError(f"{path} leads out of {self.root}, to {real}; it is not read")
        return real

    def document(self, path: Path) -> dict[str, Any] | None:
        """The JSON object at `path`; `None` where there is no such file, `RunDirectoryError` where it is none."""
        try:
            with self.open(path) as file:
                content = file.read(LARGEST_DOCUMENT + 1)
        except FileNotFoundError:
            return None
        if len(content) > LARGEST_DOCUMENT:
            raise RunDirectoryError(f"{path} has more than {LARGEST_DOCUMENT} bytes; it is not shown")
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RunDirectoryError(f"{path}: expected a JSON object: {error}") from error
        if not isinstance(document, dict):
            raise RunDirectoryError(f"{path}: expected a JSON object, found {type(document).__name__}")
        return document


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise RunDirectoryError(f"{path} leads nowhere: {error}") from error
