"""Counts as this project writes them: 1 tensor, 4 tensors."""

from __future__ import annotations


def counted(count: float, one: str, several: str = "", spec: str = "") -> str:
    """`count` and what is counted: `one` of it is named so, more are `several` (`one` with an s, if not given).

    A `spec` formats the number, as in `1,024 samples`.
    """
    return f"{count:{spec}} {of_count(count, one, several or one + 's')}"


def of_count(count: float, one: str, several: str) -> str:
    """The word that goes with `count`: `is` with 1, `are` with 4."""
    return one if count == 1 else several
