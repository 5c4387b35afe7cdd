"""How many threads a rank computes with, so that the ranks of one machine don't crowd each other out."""

from __future__ import annotations

import os
from collections.abc import Mapping


def threads_per_rank(environment: Mapping[str, str]) -> int | None:
    """This machine's cores divided among its ranks, at least 1; `None` for a single rank, which may have them all."""
    ranks = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    return None if ranks == 1 else max(1, len(os.sched_getaffinity(0)) // ranks)
