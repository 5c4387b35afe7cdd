"""AllReduce in a graph: a function of Python's that MindSpore calls when this rank's part is there.

MindSpore's own, on the CPU, goes through TCP and a cluster that MindSpore forms beside MPI's.
"""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops
from numpy.typing import NDArray

from shardline.parallel.cpu.collectives import communicator_of, in_collectives, summed


class AllReduce(nn.Cell):
    """The sum over `ranks`. It has no derivative of its own: it stands in cells with a `bprop`.

    A graph's sums are made in the order of its execution, which is the same on all ranks: their graphs are alike.
    """

    def __init__(self, ranks: tuple[int, ...]) -> None:
        super().__init__()
        communicator = communicator_of(ranks)

        def total(x: NDArray[Any]) -> NDArray[Any]:
            with in_collectives:
                return summed(x, communicator)

        self.total = ops.Custom(total, out_shape=lambda shape: shape, out_dtype=lambda dtype: dtype, func_type="pyfunc")

    def construct(self, x: Any) -> Any:
        return self.total(x)
