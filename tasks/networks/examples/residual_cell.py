"""The MindSpore cells of `residual_mlp`."""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops

from tasks.networks.cells import DenseCell
from tasks.networks.declaration import Dense, Network
from tasks.parallel.backend import SingleDevice
from tasks.parallel.placement import whole


class Block(nn.Cell):
    """x + down(relu(up(x))), x [batch, width] whole on every rank, before and after."""

    def __init__(self, up: Dense, down: Dense, batch_size: int, backend: SingleDevice, seed: int) -> None:
        super().__init__()
        self.up = DenseCell(up, batch_size, whole((batch_size, up.inputs), backend.world_size), backend, seed)
        self.down = DenseCell(down, batch_size, self.up.placement, backend, seed)
        self.gathered = backend.gathered(self.down.placement)

    def construct(self, x: Any) -> Any:
        y = self.down(self.up(x))
        return x + (self.gathered(y) if self.gathered is not None else y)


class ResidualCell(nn.Cell):
    """Images [batch, 1, 28, 28] to logits [batch, 10], both whole on every rank."""

    def __init__(self, network: Network, batch_size: int, backend: SingleDevice, seed: int) -> None:
        super().__init__()
        entry, *hidden, head = network.layers
        self.flatten = ops.Flatten()
        self.entry = DenseCell(entry, batch_size, whole((batch_size, entry.inputs), backend.world_size), backend, seed)
        self.gathered_entry = backend.gathered(self.entry.placement)
        pairs = zip(hidden[::2], hidden[1::2], strict=True)
        self.blocks = nn.CellList([Block(up, down, batch_size, backend, seed) for up, down in pairs])
        self.head = DenseCell(head, batch_size, whole((batch_size, head.inputs), backend.world_size), backend, seed)
        self.gathered = backend.gathered(self.head.placement)

    def construct(self, images: Any) -> Any:
        x = self.entry(self.flatten(images))
        if self.gathered_entry is not None:
            x = self.gathered_entry(x)
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        return self.gathered(logits) if self.gathered is not None else logits
