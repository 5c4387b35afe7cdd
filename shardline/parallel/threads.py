"""How the ranks of one machine share its cores, so that they don't crowd each other out."""

from __future__ import annotations

import os
from collections.abc import Mapping


def threads_per_rank(environment: Mapping[str, str]) -> int | None:
    """This machine's cores divided among its ranks, at least 1; `None` for a single rank, which may have them all."""
    ranks = _ranks_here(environment)
    return None if ranks == 1 else max(1, len(os.sched_getaffinity(0)) // ranks)


def keep_to_one_core(environment: Mapping[str, str]) -> None:
    """Where there are no more cores than ranks, this process and its threads to come keep to one core, ranks in turn.

    Of MindSpore's threads two wait for each other by sched_yield. On two cores each takes one, and holds up other
    ranks; on the same core the one that waits hands it over.
    """
    cores = sorted(os.sched_getaffinity(0))
    ranks = _ranks_here(environment)
    if ranks > 1 and len(cores) <= ranks:
        os.sched_setaffinity(0, {cores[int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]) % len(cores)]})


def _ranks_here(environment: Mapping[str, str]) -> int:
    return int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
