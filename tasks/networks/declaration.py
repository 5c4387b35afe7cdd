"""What a network is, declared once for all backends: layers, shapes, and each operator's strategy. Pure Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import ConfigError
from tasks.networks.operators import Operator, Splits

if TYPE_CHECKING:
    from tasks.parallel.backend import SingleDevice


@dataclass(frozen=True, kw_only=True)
class Dense:
    """activation(x @ weight + bias), x [batch, inputs], weight [inputs, outputs], bias [outputs]."""

    name: str
    inputs: int
    outputs: int
    activation: Literal["relu"] | None = None
    matmul: Splits | None = None
    """Strategy of the MatMul, of x and weight."""
    add: Splits | None = None
    """Strategy of the Add, of x @ weight and bias."""

    @property
    def weight(self) -> str:
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        return f"{self.name}.bias"

    def matmul_operator(self, batch_size: int) -> Operator:
        return Operator("MatMul", self.weight, ((batch_size, self.inputs), (self.inputs, self.outputs)), self.matmul)

    def add_operator(self, batch_size: int) -> Operator:
        return Operator("Add", self.bias, ((batch_size, self.outputs), (self.outputs,)), self.add)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier of samples of `sample_shape`: one Dense layer after another, the last one's outputs are logits."""

    name: str
    sample_shape: tuple[int, ...]
    layers: tuple[Dense, ...]

    def __post_init__(self) -> None:
        expected = prod(self.sample_shape)
        for layer in self.layers:
            if layer.inputs != expected:
                raise ConfigError(
                    f"network {self.name}: {layer.name} takes {layer.inputs} inputs, but what comes before gives "
                    f"{expected}; make them equal"
                )
            expected = layer.outputs

    def operators(self, batch_size: int) -> Iterator[Operator]:
        """The operators that a strategy can split, in the order of computation."""
        for layer in self.layers:
            yield layer.matmul_operator(batch_size)
            yield layer.add_operator(batch_size)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of every trainable parameter."""
        return {operator.parameter: operator.shapes[1] for operator in self.operators(1)}

    def cell(self, batch_size: int, backend: SingleDevice, seed: int) -> Any:
        """The MindSpore cell of this rank: its slices of the parameters, with the values that `seed` gives them."""
        from tasks.networks.cells import NetworkCell  # MindSpore, which declaring does without

        return NetworkCell(self, batch_size, backend, seed)

    def with_strategies(self, strategies: Mapping[str, Splits | None]) -> Network:
        """The same network, each operator with the strategy under its name, or without one."""
        layers = (
            replace(
                layer,
                matmul=strategies.get(layer.matmul_operator(1).name),
                add=strategies.get(layer.add_operator(1).name),
            )
            for layer in self.layers
        )
        return replace(self, layers=tuple(layers))
