"""Counts in words, and that no message writes them in another way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardline.base.counts import counted, of_count

PROJECT = Path(__file__).resolve().parents[3]
_PLURAL = re.compile(
    r" (?:(?:optimizer|other|more) )?(?:tensors|files|slices|ranks|cards|processes|parameters|runs|hours)\b"
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (counted(0, "tensor"), "0 tensors"),
        (counted(1, "tensor"), "1 tensor"),
        (counted(2, "tensor"), "2 tensors"),
        (counted(1, "process", "processes"), "1 process"),
        (counted(3, "process", "processes"), "3 processes"),
        (counted(1024, "time", spec=","), "1,024 times"),
        (counted(1.0, "hour", spec="g"), "1 hour"),
        (counted(1.5, "hour", spec="g"), "1.5 hours"),
        (of_count(1, "is", "are"), "is"),
        (of_count(0, "is", "are"), "are"),
    ],
)
def test_one_is_singular(written: str, expected: str) -> None:
    assert written == expected


def _by_hand(program: str) -> Iterator[str]:
    """The counts that an f-string of `program` writes with a plural, whatever the count is."""
    for text in ast.walk(ast.parse(program)):
        if isinstance(text, ast.JoinedStr):
            for number, after in zip(text.values, text.values[1:], strict=False):
                if isinstance(number, ast.FormattedValue) and isinstance(after, ast.Constant):
                    plural = _PLURAL.match(after.value)
                    if plural and not ast.unparse(number.value).isupper():
                        yield f"{number.lineno}: {{{ast.unparse(number.value)}}}{plural.group()}"


def test_a_count_by_hand_is_found() -> None:
    assert list(_by_hand('say(f"{found} files, {len(names)} other files, {MOST} files")')) == [
        "1: {found} files",
        "1: {len(names)} other files",
    ]


def test_no_message_writes_a_plural_by_hand() -> None:
    programs = [
        program for folder in ("shardline", "tasks", "dags", "plugins") for program in (PROJECT / folder).rglob("*.py")
    ]
    assert len(programs) > 200
    found = {program.relative_to(PROJECT): list(_by_hand(program.read_text())) for program in programs}
    assert {program: lines for program, lines in found.items() if lines} == {}
