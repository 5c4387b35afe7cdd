"""The sum of squares of a rank's tensors, as operators of the graph: on cards, where no other way is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore import Tensor, nn, ops
from mindspore import dtype as types


class Squares(nn.Cell):
    """Tensors to the sum of all their squares, float32 [1], each tensor's times its share."""

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.zero = Tensor([0.0], types.float32)
        self.square, self.sum, self.add = ops.Square(), ops.ReduceSum(), ops.AddN()
        self.map = ops.Map()  # unrolls side by side, where the compiler nests the iterations of a loop

    def construct(self, tensors: Any) -> Any:
        return self.zero + self.add(self.map(self._share, self.shares, tensors))

    def _share(self, share: float, tensor: Any) -> Any:
        return share * self.sum(self.square(tensor))


class SquaresOverRanks(nn.Cell):
    """`Squares` of all ranks, which `total` sums up."""

    def __init__(self, shares: Sequence[float], total: Any) -> None:
        super().__init__()
        self.squares, self.total = Squares(shares), total

    def measure(self, wanted: bool) -> bool:
        """Whether the next step measures: always. The graph is compiled once, and on cards it costs little."""
        del wanted
        return True

    def construct(self, tensors: Any) -> Any:
        return self.total(self.squares(tensors))
