"""Sums of the ranks of one host, through memory that they share.

Each rank lays its values down, all meet, each sums one part of everybody's, all meet, and each takes all parts: what
MPI's own algorithms send in several rounds, for each of which a sleeping rank has to wake up, is done in two meetings.
A rank that waits sleeps in the kernel, and leaves its core to the slower ones.

The memory is a file without a name: nothing is left of it when the ranks end, however they do, and /dev/shm, which
containers have little of, is not used.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import LaunchError

_WINDOW = 1 << 20
"""Bytes that a rank lays down at once; longer values go in several rounds. What is never used takes no memory."""

_WHOLE = 1 << 15
"""Of so few bytes, every rank sums all by itself: a second meeting takes longer."""

_HEAD = 4096
"""Bytes before the windows, for the barrier."""

_LIBC = ctypes.CDLL(None)
_PROCESS_SHARED = 1  # PTHREAD_PROCESS_SHARED of Linux, in glibc and musl
_SERIAL_THREAD = -1  # PTHREAD_BARRIER_SERIAL_THREAD: what one of those who met is given, instead of 0


class HostSum:
    """The sums of a communicator's ranks, all on one host; all of them make it, and call it, at the same places."""

    def __init__(self, communicator: Any) -> None:
        self._rank, self._size = communicator.rank, communicator.size
        self._memory = _shared_memory(communicator, _HEAD + (2 * self._size + 1) * _WINDOW)
        self._barrier = ctypes.c_char.from_buffer(self._memory)
        if self._rank == 0:
            _make_barrier(self._barrier, self._size)
        communicator.Barrier()
        self._is_odd = False
        self._turns: dict[tuple[int, np.dtype[Any], bool], _Turn] = {}

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum of the ranks' `values`, of the same type and shape, element by element in the order of the ranks."""
        sums = np.empty(values.shape, values.dtype)
        given, flat = np.ascontiguousarray(values).reshape(-1), sums.reshape(-1)
        length = _WINDOW // values.itemsize
        for begin in range(0, flat.size, length):
            flat[begin : begin + length] = self._sum(given[begin : begin + length])
        return sums

    def room(self, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Where to lay down the values of the next sum, [length], not filled: in the shared memory, if they fit."""
        if length * dtype.itemsize > _WINDOW:
            return np.empty(length, dtype)
        return self._turn(length, dtype, not self._is_odd).own

    def of_room(self, room: NDArray[Any]) -> NDArray[Any]:
        """The sum of what the ranks have laid down in their rooms. It is valid until the next sum, and isn't copied."""
        return self(room) if room.nbytes > _WINDOW else self._sum(room)

    def _sum(self, values: NDArray[Any]) -> NDArray[Any]:
        # Of two windows, a rank lays down in the one that no slower rank can still be reading.
        self._is_odd = not self._is_odd
        turn = self._turn(values.size, values.dtype, self._is_odd)
        if values is not turn.own:
            turn.own[:] = values
        self._meet()
        if values.nbytes <= _WHOLE:
            sums = np.empty(values.size, values.dtype)
            _add(turn.laid_down, sums)
            return sums
        _add(turn.parts, turn.sum_of_parts)
        self._meet()
        return turn.sums

    def _turn(self, length: int, dtype: np.dtype[Any], is_odd: bool) -> _Turn:
        """The memory of one sum: of as many values, in the windows of its turn."""
        key = (length, dtype, is_odd)
        if key not in self._turns:
            laid_down = [self._window(2 * rank + is_odd, length, dtype) for rank in range(self._size)]
            sums = self._window(2 * self._size, length, dtype)
            part = slice(length * self._rank // self._size, length * (self._rank + 1) // self._size)
            parts = [each[part] for each in laid_down]
            self._turns[key] = _Turn(laid_down, laid_down[self._rank], sums, parts, sums[part])
        return self._turns[key]

    def _window(self, index: int, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.frombuffer(self._memory, dtype, length, _HEAD + index * _WINDOW)

    def _meet(self) -> None:
        """Wait, asleep, until all ranks are here: what each has written before, all see afterwards."""
        _expect_well("pthread_barrier_wait", ctypes.byref(self._barrier))


@dataclass(frozen=True)
class _Turn:
    """What the ranks lay down, this one's, and the sums; and of these the part that this rank sums."""

    laid_down: list[NDArray[Any]]
    own: NDArray[Any]
    sums: NDArray[Any]
    parts: list[NDArray[Any]]
    sum_of_parts: NDArray[Any]


def _add(terms: list[NDArray[Any]], sums: NDArray[Any]) -> None:
    np.add(terms[0], terms[1], out=sums)
    for term in terms[2:]:
        np.add(sums, term, out=sums)


def _shared_memory(communicator: Any, length: int) -> mmap.mmap:
    """Memory of `length` zeros that the communicator's ranks share: rank 0's, which the others open through /proc."""
    if communicator.rank == 0:
        file = os.memfd_create("shardline")
        os.ftruncate(file, length)
        communicator.bcast(f"/proc/{os.getpid()}/fd/{file}")
    else:
        file = os.open(communicator.bcast(None), os.O_RDWR)
    memory = mmap.mmap(file, length)
    communicator.Barrier()
    os.close(file)
    return memory


def _make_barrier(place: ctypes.c_char, ranks: int) -> None:
    attributes = ctypes.create_string_buffer(64)
    _expect_well("pthread_barrierattr_init", attributes)
    _expect_well("pthread_barrierattr_setpshared", attributes, _PROCESS_SHARED)
    _expect_well("pthread_barrier_init", ctypes.byref(place), attributes, ranks)


def _expect_well(name: str, *arguments: Any) -> None:
    """Call a function of the C library; `LaunchError` where it fails: ranks that do not meet sum what is not there."""
    code = getattr(_LIBC, name)(*arguments)
    if code not in (0, _SERIAL_THREAD):
        raise LaunchError(f"{name}: {os.strerror(code)}; the ranks of this host cannot sum through shared memory")
