"""Sums over CPU ranks: mpirun started them, and MPI, through mpi4py, has joined them already.

The ranks of one host sum through memory that they share (`host_sum`), those of several by MPI. A rank that waits
sleeps, where `MPI_Allreduce` would spin: where ranks outnumber cores, the slowest one needs the core that a spinning
one would hold (Open MPI 4.1, 8 ranks on 2 cores: 470 ms an exchange of 1 MB spinning, 14 ms asleep). All ranks of a
group get the same bits, either way.

Every group of ranks has a communicator of its own, and so have the sums of the graph and those outside of it: they may
be under way at the same time, on different threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import LaunchError
from shardline.parallel.cpu.host_sum import HostSum
from shardline.parallel.cpu.stopwatch import Stopwatch

_SHORTEST_NAP_S = 20e-6
_LONGEST_NAP_S = 1e-3

in_collectives = Stopwatch()
"""The time that this rank's sums in the graph take, from when its part is there; waiting for other ranks included."""


def join(rank: int, world_size: int) -> None:
    """Join MPI as `rank` of `world_size`; `LaunchError` unless mpirun started so many, and threads may call MPI."""
    mpi = _mpi()
    if not mpi.Is_initialized():
        mpi.Init_thread(mpi.THREAD_MULTIPLE)
    found = mpi.COMM_WORLD
    if (found.rank, found.size) != (rank, world_size):
        raise LaunchError(
            f"expected rank {rank} of {world_size}, but MPI says rank {found.rank} of {found.size}: the library that "
            "mpi4py has found is of another MPI than the mpirun that started the ranks; set SHARDLINE_MPIRUN to one "
            "that belongs to it, or MPI4PY_LIBMPI to that mpirun's libmpi.so"
        )
    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        raise LaunchError(
            f"{mpi.Get_library_version().splitlines()[0]} was built without MPI_THREAD_MULTIPLE, which training takes; "
            "use the Open MPI of requirements.txt"
        )


class Group:
    """Ranks that sum among themselves."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        on_this_host = communicator.Split_type(_mpi().COMM_TYPE_SHARED)
        self._host_sum = HostSum(communicator) if on_this_host.size == communicator.size > 1 else None

    def summed(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum of the ranks' `values`, element by element, of the same type and shape."""
        return summed(values, self._communicator) if self._host_sum is None else self._host_sum(values)

    def room(self, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Where to lay down the values of the next sum, [length], not filled; ranks of one host share it."""
        return np.empty(length, dtype) if self._host_sum is None else self._host_sum.room(length, dtype)

    def of_room(self, room: NDArray[Any]) -> NDArray[Any]:
        """The sum of what the ranks have laid down in their rooms, which nothing copies; valid until the next sum."""
        return summed(room, self._communicator) if self._host_sum is None else self._host_sum.of_room(room)


@cache
def group_of(ranks: tuple[int, ...], purpose: str = "graph") -> Group:
    """The group of `ranks` for one purpose; all of them ask for it, in the same order."""
    mpi = _mpi()
    group = mpi.COMM_WORLD.group.Incl(ranks)
    tag = sum(purpose.encode()) % 1024  # groups that overlap are made one after another on every rank
    return Group(mpi.COMM_WORLD.Create_group(group, tag))


def summed(values: NDArray[Any], communicator: Any) -> NDArray[Any]:
    """The sum of the ranks' `values`, element by element, of the same type and shape, by MPI."""
    sums = np.empty_like(values, order="C")
    request = communicator.Iallreduce(np.ascontiguousarray(values), sums)
    nap = _SHORTEST_NAP_S
    while not request.Test():
        time.sleep(nap)
        nap = min(2 * nap, _LONGEST_NAP_S)
    return sums


def total(values: Sequence[float], world_size: int) -> list[float]:
    """The sums of `values` over all ranks, in float32; outside of the graph."""
    everyone = group_of(tuple(range(world_size)), "total")
    sums: list[float] = everyone.summed(np.array(values, np.float32)).tolist()
    return sums


def _mpi() -> Any:
    import mpi4py

    # Open MPI 5 loads what one-sided communication through libfabric takes, and sleeps for a second as it puts it away
    # again (mca_btl_ofi_component_close). Sums take none of it; which transports a user has named stays.
    os.environ.setdefault("OMPI_MCA_btl", "^ofi")

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    return MPI
