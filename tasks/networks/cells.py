"""The MindSpore cells of a declaration; the backend decides how an operator is computed, and which slice is held."""

from __future__ import annotations

from typing import Any

from mindspore import Parameter, Tensor, nn, ops

from tasks.networks.declaration import Dense
from tasks.networks.declaration import Network as LayeredNetwork
from tasks.networks.initial import uniform_slice
from tasks.networks.operators import Operator
from tasks.networks.train_spec import Network
from tasks.parallel.backend import SingleDevice
from tasks.parallel.placement import Placement, whole


class DenseCell(nn.Cell):
    """activation(x @ weight + bias); `placement` says where the output lies."""

    def __init__(self, layer: Dense, batch_size: int, source: Placement, backend: SingleDevice, seed: int) -> None:
        super().__init__()
        matmul, add = layer.matmul_operator(batch_size), layer.add_operator(batch_size)
        self.weight = _parameter("weight", matmul, layer.inputs, backend, seed)
        self.bias = _parameter("bias", add, layer.inputs, backend, seed)
        self.matmul, product = backend.place(matmul, source)
        self.add, self.placement = backend.place(add, product)
        self.relu = ops.ReLU() if layer.activation == "relu" else None

    def construct(self, x: Any) -> Any:
        y = self.add(self.matmul(x, self.weight), self.bias)
        return self.relu(y) if self.relu is not None else y


class NetworkCell(nn.Cell):
    """Samples [batch, *sample_shape] to logits [batch, classes], both whole on every rank."""

    def __init__(self, network: LayeredNetwork, batch_size: int, backend: SingleDevice, seed: int) -> None:
        super().__init__()
        self.flatten = ops.Flatten()
        self.layer_names = tuple(layer.name for layer in network.layers)
        placement = whole((batch_size, network.layers[0].inputs), backend.world_size)
        for layer in network.layers:
            cell = DenseCell(layer, batch_size, placement, backend, seed)
            setattr(self, layer.name, cell)
            placement = cell.placement
        self.layers = [getattr(self, name) for name in self.layer_names]
        self.gathered = backend.gathered(placement)

    def construct(self, samples: Any) -> Any:
        x = self.flatten(samples)
        for layer in self.layers:
            x = layer(x)
        return self.gathered(x) if self.gathered is not None else x


def build(network: Network, batch_size: int, backend: SingleDevice, seed: int) -> nn.Cell:
    """The cells of any network with this rank's slices of the initial values that `seed` gives."""
    return network.cell(batch_size, backend, seed)


def _parameter(name: str, operator: Operator, fan_in: int, backend: SingleDevice, seed: int) -> Parameter:
    shape = operator.shapes[1]
    region = backend.region(operator.parameter, shape)
    return Parameter(Tensor(uniform_slice(operator.parameter, shape, region, fan_in=fan_in, seed=seed)), name=name)
