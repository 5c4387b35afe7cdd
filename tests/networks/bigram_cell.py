"""The MindSpore cell of `bigram`."""

from __future__ import annotations

from typing import Any

import mindspore
from mindspore import Tensor, nn, ops

from tasks.networks.cells import DenseCell
from tasks.networks.declaration import Dense
from tasks.parallel.backend import SingleDevice
from tasks.parallel.placement import whole


class BigramCell(nn.Cell):
    """Tokens int32 [batch, sequence] to logits [batch, sequence, 256], both whole on every rank."""

    def __init__(self, layer: Dense, tokens: int, backend: SingleDevice, seed: int) -> None:
        super().__init__()
        self.one_hot = ops.OneHot()
        self.vocabulary = layer.inputs
        self.on, self.off = Tensor(1.0, mindspore.float32), Tensor(0.0, mindspore.float32)
        source = whole((tokens, layer.inputs), backend.world_size)
        self.following = DenseCell(layer, tokens, source, backend, seed)
        self.gathered = backend.gathered(self.following.placement)

    def construct(self, tokens: Any) -> Any:
        vectors = self.one_hot(tokens.reshape(-1), self.vocabulary, self.on, self.off)
        logits = self.following(vectors)
        if self.gathered is not None:
            logits = self.gathered(logits)
        return logits.reshape((*tokens.shape, self.vocabulary))
