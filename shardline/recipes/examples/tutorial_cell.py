"""The cell of MindSpore's tutorial on saving models in parallel, as the tutorial writes it; nothing of Shardline."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import initializer


class Dense(nn.Cell):
    """x @ weight + bias, by two operators that take strategies."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = ms.Parameter(initializer("normal", [in_channels, out_channels], ms.float32))
        self.bias = ms.Parameter(initializer("normal", [out_channels], ms.float32))
        self.matmul = ops.MatMul()
        self.add = ops.Add()

    def construct(self, x: Any) -> Any:
        x = self.matmul(x, self.weight)
        return self.add(x, self.bias)


class Network(nn.Cell):
    """Pictures [batch, 1, 28, 28] to logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = ops.Flatten()
        self.layer1 = Dense(28 * 28, 512)
        self.relu1 = ops.ReLU()
        self.layer2 = Dense(512, 512)
        self.relu2 = ops.ReLU()
        self.layer3 = Dense(512, 10)

    def construct(self, x: Any) -> Any:
        x = self.flatten(x)
        x = self.layer1(x)
        x = self.relu1(x)
        x = self.layer2(x)
        x = self.relu2(x)
        return self.layer3(x)


def sharded() -> Network:
    """The network, with the strategies of the tutorial: for 4 ranks, or a multiple."""
    net = Network()
    net.layer1.matmul.shard(((2, 1), (1, 2)))
    net.layer3.matmul.shard(((2, 2), (2, 1)))
    return net
