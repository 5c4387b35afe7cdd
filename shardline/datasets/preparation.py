"""Prepared data sets: folders under HOME/data that all runs share, each written once.

A folder's name comes from its source's fingerprint. It is staged beside its place, every file is synced, and one
rename publishes it, under a lock that lets two runs prepare the same data one after the other: the second finds it
done. A prepared folder is used again only when its files still have the digests of its `contents.json`; otherwise it
is prepared anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from shardline.base import atomic
from shardline.base.errors import DatasetError
from shardline.base.remedies import remedy

if TYPE_CHECKING:
    from typing_extensions import Self

_CONTENTS = "contents.json"


class Description(Protocol):
    """What a prepared folder holds."""

    def placed(self, directory: Path) -> Self:
        """The same content, in the folder `directory`."""

    def summary(self) -> str:
        """How much of what there is, in words."""

    def to_json(self) -> str: ...


Content = TypeVar("Content")
Content_co = TypeVar("Content_co", covariant=True)
Described = TypeVar("Described", bound=Description)


class Source(Protocol[Content_co]):
    """A data set before it is prepared.

    Two methods, so that data which was prepared before is found again without being fetched or decoded.
    """

    def fingerprint(self) -> str:
        """A text that differs whenever `read` would give other content; cheap to compute."""

    def read(self) -> Content_co:
        """All of it, checked; `DatasetError` where it cannot be had."""


@dataclass(frozen=True)
class Form(Generic[Content, Described]):
    """How data of one kind lies in its folder."""

    write: Callable[[Content, Path], None]
    """Write the content into a folder, which is there."""
    describe: Callable[[str, Path], Described]
    """Describe the content, from the source of the name, in a folder: all of it is read and checked."""
    from_json: Callable[[str | bytes, Path], Described]
    """The description in a JSON document that was read from the file."""


def prepare(source_name: str, source: Source[Content], form: Form[Content, Described], root: Path) -> Described:
    """The description of `source`'s data set, prepared under `root` unless it is there already, unchanged."""
    key = f"{source_name}-{hashlib.sha256(source.fingerprint().encode()).hexdigest()[:16]}"
    folder = root / key
    try:
        with _lock(root / f".{key}.lock"):
            found = _prepared_before(source_name, form, folder)
            if found is not None:
                print(f"{folder}: prepared before and unchanged", flush=True)
                return found
            return _publish(source_name, source.read(), form, folder)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or folder}: cannot prepare data there: {error.strerror}; {remedy(error)}, then try again"
        ) from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` against every other preparation of the same data, waiting for one that runs."""
    atomic.make_directory(path.parent)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path}: another run prepares the same data; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepared_before(source_name: str, form: Form[Content, Described], folder: Path) -> Described | None:
    contents = folder / _CONTENTS
    if not contents.exists():
        return None
    try:
        recorded = form.from_json(contents.read_bytes(), contents).placed(folder)
        if form.describe(source_name, folder) == recorded:
            return recorded
        reason = f"its files are not those that {_CONTENTS} describes"
    except DatasetError as error:
        reason = str(error)
    print(f"{folder}: preparing it again: {reason}", flush=True)
    return None


def _publish(source_name: str, content: Content, form: Form[Content, Described], folder: Path) -> Described:
    staged = folder.with_name(f".{folder.name}.staged")
    if staged.exists():
        # Whoever holds the lock is the only writer: this was left by a process that was killed.
        shutil.rmtree(staged)
    try:
        staged.mkdir()
        form.write(content, staged)
        _sync(staged)
        description = form.describe(source_name, staged).placed(folder)
        atomic.write_text(staged / _CONTENTS, description.to_json())
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
        atomic.sync_directory(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    print(f"{folder}: {description.summary()}", flush=True)
    return description


def _sync(folder: Path) -> None:
    """Make every file in `folder` durable, and the folders that name them."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            atomic.sync_directory(path)
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
