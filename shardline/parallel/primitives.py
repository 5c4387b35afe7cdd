"""MindSpore's primitives as operators call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore
from mindspore import nn, ops
from mindspore.ops import auto_generate

from shardline.networks.operators import Operator

_MULTIPLICATIONS = ("MatMul", "BatchMatMul")


class PrimitiveCell(nn.Cell):
    """`operator`'s primitive on its inputs, or on one rank's parts of them, giving `output_shape`.

    Matrix multiplications are done in `precision`, whatever comes in and goes out is float32. `sharded` has the last
    word on the primitive.
    """

    def __init__(
        self,
        operator: Operator,
        output_shape: tuple[int, ...],
        precision: str,
        sharded: Callable[[Any], Any] = lambda primitive: primitive,
    ) -> None:
        super().__init__()
        self.primitive = sharded(_class_of(operator.primitive)(**operator.attributes))
        self.arguments = (output_shape,) if operator.primitive == "Reshape" else operator.arguments
        self.takes_first = operator.primitive == "LayerNorm"  # which gives mean and variance too
        self.is_cast = operator.primitive in _MULTIPLICATIONS and precision != "float32"
        self.cast = ops.Cast()
        self.precision = getattr(mindspore, precision)

    def construct(self, *inputs: Any) -> Any:
        if self.is_cast:
            low = (self.cast(inputs[0], self.precision), self.cast(inputs[1], self.precision))
            return self.cast(self.primitive(*low, *self.arguments), mindspore.float32)
        output = self.primitive(*inputs, *self.arguments)
        return output[0] if self.takes_first else output


def _class_of(primitive: str) -> Any:
    """The class of a primitive; `mindspore.ops` lacks those that only Tensor's methods use."""
    return getattr(ops, primitive, None) or getattr(auto_generate, primitive)
