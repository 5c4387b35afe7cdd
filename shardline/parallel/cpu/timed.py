"""AllReduce that is timed: from when this rank's part is there until the sum is, waiting for other ranks included.

Nothing outside the graph can tell that time: where ranks outnumber cores, MindSpore's idle threads stand ready to run
all the while. So a graph calls two functions of Python's, one before each sum and one after, tens of microseconds each.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray


class Stopwatch:
    """The seconds in which at least one thing that was begun had not ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun, self._since, self._seconds = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Until now, without what has begun and not ended."""
        return self._seconds

    def begin(self) -> None:
        with self._lock:
            if not self._begun:
                self._since = time.perf_counter()
            self._begun += 1

    def end(self) -> None:
        with self._lock:
            self._begun -= 1
            if not self._begun:
                self._seconds += time.perf_counter() - self._since


in_collectives = Stopwatch()
"""Of all this process's `TimedAllReduce`s."""


class TimedAllReduce(nn.Cell):
    """The sum over the ranks of `group`. It has no derivative of its own: it stands in cells with a `bprop`."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self.all_reduce, self.depend = ops.AllReduce(group=group), ops.Depend()
        self.begin, self.end = _called(in_collectives.begin), _called(in_collectives.end)
        self.token = Tensor([0.0], mindspore.float32)

    def construct(self, x: Any) -> Any:
        begun = self.begin(self.depend(self.token, x))
        total = self.all_reduce(self.depend(x, begun))
        return self.depend(total, self.end(self.depend(self.token, total)))


def _called(function: Any) -> Any:
    """A primitive that calls `function`, and passes its input on."""

    def call(token: NDArray[np.float32]) -> NDArray[np.float32]:
        function()
        return token

    return ops.Custom(call, out_shape=lambda shape: shape, out_dtype=lambda dtype: dtype, func_type="pyfunc")
