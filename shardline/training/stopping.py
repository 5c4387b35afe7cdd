"""Leaving in good order when SIGTERM comes: all ranks after the same step, with a shard set of it.

The signal reaches ranks that are a step apart, so they have to agree. About once a second they sum one number each,
whether they were told to stop; one collective then, none at the steps between. When the next one comes is decided by
rank 0, which measures the steps, and travels in the same sum.
"""

from __future__ import annotations

import time

from shardline.base.termination import StopRequest
from shardline.parallel.single_device import SingleDevice

_SECONDS_BETWEEN = 1.0
_MOST_STEPS_BETWEEN = 1000


class Stopping:
    """The ranks' agreement on whether to stop; every rank asks after every step, from step `first` on."""

    def __init__(self, backend: SingleDevice, request: StopRequest, first: int) -> None:
        self._backend, self._request = backend, request
        self._asked_at, self._next = first, first + 1
        self._since = time.perf_counter()

    def is_due(self, step: int) -> bool:
        """Whether the ranks ask each other after `step`: the same on all of them."""
        return step >= self._next

    def agreed(self, step: int) -> bool:
        """Whether all ranks stop after `step`: the same on all of them."""
        if not self.is_due(step):
            return False
        interval = self._steps_between(step) if self._backend.rank == 0 else 0
        told, interval = (int(number) for number in self._backend.total([float(self._request.requested), interval]))
        self._asked_at, self._next = step, step + interval
        return told > 0

    def _steps_between(self, step: int) -> int:
        """How many steps take about a second, by those since the last time."""
        now = time.perf_counter()
        steps_a_second = (step - self._asked_at) / max(now - self._since, 1e-9)
        self._since = now
        return max(1, min(_MOST_STEPS_BETWEEN, int(steps_a_second * _SECONDS_BETWEEN)))
