"""The model store: numbered versions of each model that never change, and which of them is current.

    HOME/models/NAME/versions/N/{model.ckpt, report.json, merge.json, config.json, lineage.json, version.json}
                                and perhaps model.sig
    HOME/models/NAME/current -> versions/N

A version is staged in a hidden folder, its files are synced and made read-only, and one rename publishes it. `current`
is a symbolic link that another rename replaces. Both happen under the model's lock, so that of two promotions at once
each gets its own number, and `current` ends at the later one.

    shardline models {list,current,show,rollback N} [--model NAME]
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import PromotionError
from shardline.base.remedies import remedy
from shardline.run.directory import Home
from shardline.store.signing_key import SigningKey
from shardline.store.version import Candidate, Version, read_version, write_version


class ModelStore:
    """The versions of one model."""

    def __init__(self, home: Home, name: str) -> None:
        self.path = home.models / name
        self._versions = self.path / "versions"
        self._current = self.path / "current"
        self._staged_current = self.path / ".current.staged"

    def versions(self) -> list[Version]:
        """All versions that can be read, oldest first."""
        return [version for version in map(_read, self._folders()) if isinstance(version, Version)]

    def damaged(self) -> list[PromotionError]:
        """What is wrong with the others: a damaged version stands in nobody's way but its own."""
        return [problem for problem in map(_read, self._folders()) if isinstance(problem, PromotionError)]

    def _folders(self) -> list[Path]:
        entries = self._versions.iterdir() if self._versions.exists() else ()
        folders = [entry for entry in entries if re.fullmatch(r"[1-9][0-9]*", entry.name)]
        return sorted(folders, key=lambda folder: int(folder.name))

    def current(self) -> Version | None:
        """The version that `current` names; `None` before the first promotion."""
        name = self._name_of_current()
        return None if name is None else read_version(self._versions / name)

    def current_number(self) -> int | None:
        """The number of the version that `current` names, whatever is there; `None` where it names none."""
        name = self._name_of_current() or ""
        return int(name) if name.isdecimal() else None

    def _name_of_current(self) -> str | None:
        if not self._current.is_symlink() and not self._current.exists():
            return None
        return Path(os.path.realpath(self._current)).name

    def add(
        self, candidate: Candidate, admit: Callable[[], None] = lambda: None, key: SigningKey | None = None
    ) -> Version:
        """The version that `candidate` becomes, or already is; it is current unless a later one is.

        `admit` raises where it must not, as the store is now: until `candidate` is current, nobody changes it. What it
        becomes is signed with `key`; what it already is stays as it was promoted. Raises
        `PromotionError` where the checkpoint has not the digest that it should have, or cannot be stored.
        """
        with self._changing():
            admit()
            version = self._find(candidate) or self._publish(candidate, key)
            if (self.current_number() or 0) < version.version:
                self._point_to(version)
            return version

    def roll_back(self, number: int) -> Version:
        """Make version `number` current, and return it."""
        version = self.version(number)
        version.verify()
        with self._changing():
            self._point_to(version)
        return version

    def version(self, number: int) -> Version:
        """Version `number`; `PromotionError` where there is none."""
        known = {version.version: version for version in self.versions()}
        if number not in known:
            raise PromotionError(
                f"{self.path}: no version {number}; there are {', '.join(map(str, known)) or 'none at all'}"
            )
        return known[number]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the model against every other change; a failure to write becomes a `PromotionError`."""
        try:
            atomic.make_directory(self._versions)
            with (self.path / ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._remove_abandoned()
                yield
        except OSError as error:
            raise PromotionError(
                f"{error.filename or self.path}: cannot change the store: {error.strerror}; {remedy(error)}, then "
                "try again"
            ) from error

    def _remove_abandoned(self) -> None:
        """Remove what a killed process left: whoever holds the lock is the only writer."""
        self._staged_current.unlink(missing_ok=True)
        for staged in self._versions.glob(".*.staged"):
            shutil.rmtree(staged)

    def _find(self, candidate: Candidate) -> Version | None:
        return next((version for version in self.versions() if version.is_of(candidate)), None)

    def _publish(self, candidate: Candidate, key: SigningKey | None) -> Version:
        number = max((int(folder.name) for folder in self._folders()), default=0) + 1
        folder, staged = self._versions / str(number), self._versions / f".{number}.staged"
        try:
            staged.mkdir()
            sign = None if key is None else partial(key.sign, name=f"{self.path.name}/{number}")
            write_version(staged, number, candidate, sign)
            staged.rename(folder)
            atomic.sync_directory(self._versions)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return read_version(folder)

    def _point_to(self, version: Version) -> None:
        self._staged_current.symlink_to(Path("versions", str(version.version)))
        self._staged_current.replace(self._current)
        atomic.sync_directory(self.path)


def _read(folder: Path) -> Version | PromotionError:
    try:
        return read_version(folder)
    except PromotionError as error:
        return error


def current(home: Home, name: str) -> Version | None:
    """The current version of the model `name`; `None` before its first promotion."""
    return ModelStore(home, name).current()
