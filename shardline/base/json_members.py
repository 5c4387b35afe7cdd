"""JSON objects too large to be held as objects: read member by member, each value decoded when it is reached."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from shardline.base.json_object import DuplicateName, without_duplicates

_SPACE = re.compile(r"[ \t\n\r]*")


class JsonMembers:
    """A place in a JSON text, from which members are read one after another. `ValueError` where it is wrong.

    Beside the text, memory holds one value at a time.
    """

    def __init__(self, text: str) -> None:
        self._text, self._position = text, 0
        decoder = json.JSONDecoder(object_pairs_hook=without_duplicates, parse_constant=_refuse_constant)
        self._decode = decoder.raw_decode

    def members(self) -> Iterator[str]:
        """The names in the object that begins here; whoever iterates reads each one's value before the next."""
        self._take("{")
        if self._next() == "}":
            self._take("}")
            return
        seen: set[str] = set()
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"expected a name, found {name!r:.80}")
            if name in seen:
                raise DuplicateName(f"the name {name!r:.200} appears twice")
            seen.add(name)
            self._take(":")
            yield name
            if self._take(",}") == "}":
                return

    def value(self) -> Any:
        """Decode the value that begins here."""
        self._next()
        try:
            value, self._position = self._decode(self._text, self._position)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        return value

    def end(self) -> None:
        """Nothing may follow."""
        if self._next():
            raise ValueError(f"expected the end at character {self._position}, found {self._next()!r}")

    def _next(self) -> str:
        """The next character that is no white space, which stays there."""
        match = _SPACE.match(self._text, self._position)
        self._position = match.end() if match else self._position
        return self._text[self._position : self._position + 1]

    def _take(self, expected: str) -> str:
        found = self._next()
        if not found or found not in expected:
            raise ValueError(
                f"expected {' or '.join(expected)} at character {self._position}, found {found or 'the end'}"
            )
        self._position += 1
        return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
