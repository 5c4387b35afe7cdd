"""Which rank a process is, by whoever started it: mpirun, or `shardline.launch.own_processes`."""

from __future__ import annotations

from collections.abc import Mapping

OWN = "SHARDLINE_RANK"
SCHEDULER = "scheduler"
"""Not a rank: MindSpore's scheduler, which the ranks of an msrun meet at."""


def folder_name(environment: Mapping[str, str]) -> str:
    """The folder of this rank, below the launch's."""
    if environment.get(OWN) == SCHEDULER:
        return SCHEDULER
    return f"rank.{rank_number(environment)}"


def rank_number(environment: Mapping[str, str]) -> int:
    """This rank's number; -1 of the scheduler."""
    own = environment.get(OWN, environment.get("OMPI_COMM_WORLD_RANK", ""))
    return -1 if own == SCHEDULER else int(own)
