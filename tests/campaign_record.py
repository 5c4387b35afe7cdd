"""What the campaign tried and found, one JSON object a line, appended to the file that CAMPAIGN_RECORD names.

`python -m scripts.reliability FILE` makes docs/reliability.md of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path


def record(part: str, kind: str, *, tries: int, failed: Sequence[str], seed: object) -> None:
    """Note that `kind`, of a `part` of the campaign, was tried so often, from `seed`; and what failed, if anything."""
    if name := os.environ.get("CAMPAIGN_RECORD"):
        line = {"part": part, "kind": kind, "tries": tries, "failed": list(failed), "seed": seed}
        with Path(name).open("a") as file:
            file.write(json.dumps(line) + "\n")
