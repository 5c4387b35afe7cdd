"""Texts with placeholders, `{name}`: what they name, and what becomes of them.

A value takes the place of its placeholder as it is, whatever characters it has: it is never read again, neither as a
placeholder nor by a shell. `{{` and `}}` stand for braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PART = re.compile(r"\{\{|\}\}|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<brace>[{}])")


def names_in(text: str) -> list[str]:
    """The placeholders of `text`, in order; `ValueError` where a brace belongs to none."""
    names = []
    for part in _PART.finditer(text):
        if part["brace"]:
            raise ValueError(
                f"the {part['brace']} at character {part.start() + 1} of {text!r} belongs to no "
                "placeholder {name}; write {{ and }} for braces"
            )
        if part["name"]:
            names.append(part["name"])
    return names


def check_names(text: str, known: Iterable[str]) -> None:
    """`ValueError` where `text` has a placeholder that is none of the `known`."""
    for name in names_in(text):
        if name not in (allowed := sorted(known)):
            raise ValueError(
                f"{{{name}}} is no placeholder here; there are {', '.join(f'{{{one}}}' for one in allowed)}"
            )


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with `values` in the place of its placeholders."""
    return _PART.sub(lambda part: values[part["name"]] if part["name"] else part[0][0], text)
