"""TOML files that people write: read as documents, and the line of whatever is wrong in them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 256 * 1024
Place = Sequence[str | int]
"""Where a value stands in a document: keys, and numbers of array elements from 0."""


@dataclass(frozen=True)
class TomlFile:
    """A file's text, and the document in it."""

    path: Path
    text: str
    document: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """The document at `path`; `ConfigError` with file and line where it cannot be read, or is no TOML."""
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if len(content) > LARGEST:
            raise ConfigError(f"{path}: expected at most {LARGEST} bytes, found more")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{path}:{line}: expected UTF-8, found the byte {content[error.start]:#04x}") from None
        try:
            return cls(path, text, tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}:{_line_of(error, text)}: this is no TOML: {error}") from None
        except RecursionError:
            raise ConfigError(f"{path}: its arrays or tables are nested too deeply") from None

    def where(self, place: Place) -> str:
        """`FILE:LINE` of the value at `place`, or of the table that lacks it."""
        return f"{self.path}:{self.line(place)}"

    def line(self, place: Place) -> int:
        """The line, from 1, of the statement that gives the value at `place`; where nothing does, of what is around it.

        What stands before a statement is a document itself, which has no such value yet: statements are told apart by
        the one parser that knows them all.
        """
        while place and not _has(self.document, place):
            place = place[:-1]
        if not place:
            return 1
        lines = [f"{line}\n" for line in self.text.split("\n")]
        first, last = 1, len(lines)
        while first < last:
            middle = (first + last) // 2
            if _has(self._first_document(lines, middle), place):
                last = middle
            else:
                first = middle + 1
        return first

    def _first_document(self, lines: Sequence[str], count: int) -> dict[str, Any]:
        """The document of the first `count` lines, or of as many more as finish their last statement."""
        prefixes = ("".join(lines[:number]) for number in range(count, len(lines)))
        documents = (document for document in map(_parsed, prefixes) if document is not None)
        return next(documents, self.document)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _has(document: Any, place: Place) -> bool:
    try:
        for part in place:
            document = document[part]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _line_of(error: tomllib.TOMLDecodeError, text: str) -> int:
    """The line in a message such as `Expected '=' after a key (at line 3, column 7)`, or `(at end of document)`."""
    words = str(error).rpartition("(at line ")[2]
    number = words.partition(",")[0]
    return int(number) if number.isdecimal() else text.rstrip("\n").count("\n") + 1
