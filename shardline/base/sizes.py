"""Sizes as people write them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?$")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Bytes: 5GB is decimal, 5GiB binary. `ValueError` says what was expected and found."""
    match = _SIZE.match(text)
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"expected a size such as 5GB or 512MiB, found {text!r}")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]])
