"""Sizes as people write them, and as this project prints them (`shardline.base.progress.human_size`)."""

from __future__ import annotations

import re
from decimal import Decimal

PATTERN = r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([kKmMgGtTpP])([iI]?)[bB]?|[bB](?:[yY][tT][eE][sS]?)?)?\s*$"
"""What is read as a size: number, unit, `i`. Forms check what is typed by it; JavaScript reads it as Python does."""
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str) -> int:
    """Bytes: 5GB, 5 gb and 5G are decimal, 5GiB and 5gi binary; a number alone counts bytes. Fractions are cut off.

    `ValueError` says what was expected and found.
    """
    match = re.match(PATTERN, text)
    if match is None:
        raise ValueError(f"expected a size such as 60KB, 5GB, 1.5G or 512MiB, found {text!r}")
    number, unit, binary = match.groups(default="")
    size = Decimal(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()]
    if size < 1:
        raise ValueError(f"expected a size of at least one byte, found {text!r}")
    return int(size)
