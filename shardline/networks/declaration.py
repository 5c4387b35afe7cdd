"""What a network is, declared once for all backends: layers one after another, and each operator's strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol

from shardline.base.errors import ConfigError
from shardline.networks.graph import Activation, Graph
from shardline.networks.operators import Operator, Splits
from shardline.networks.values import Initial, Uniform, Value, Weight

if TYPE_CHECKING:
    from shardline.networks.backend import Backend


class Layer(Protocol):
    """A part of a network."""

    @property
    def name(self) -> str:
        """What the names of the layer's parameters begin with."""

    def __call__(self, graph: Graph, x: Value, /) -> Value:
        """What the layer gives for x [batch, ...]; its operators are recorded in `graph`."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """activation(x @ weight + bias), x [batch, inputs], weight [inputs, outputs], bias [outputs].

    An x of more dimensions, as the samples may be, is flattened to [batch, inputs].
    """

    name: str
    inputs: int
    outputs: int
    activation: Activation | None = None
    has_bias: bool = True
    initial: Initial | None = None
    """Of the weight; `Uniform` by the inputs unless given."""
    initial_bias: Initial | None = None
    matmul: Splits | None = None
    """Strategy of the MatMul, of x and weight."""
    add: Splits | None = None
    """Strategy of the Add, of x @ weight and bias."""
    activate: Splits | None = None
    """Strategy of the activation, which otherwise stays where the sum lies."""

    def __call__(self, graph: Graph, x: Value) -> Value:
        batch, found = x.shape[0], prod(x.shape[1:])
        if found != self.inputs:
            raise ConfigError(
                f"{self.name} takes {self.inputs} inputs, but what comes before gives {found}; make them equal"
            )
        if len(x.shape) > 2:
            x = graph.reshape(f"{self.name}.flat", x, (batch, found))
        uniform = Uniform(self.inputs)
        weight = Weight(f"{self.name}.weight", (self.inputs, self.outputs), self.initial or uniform)
        x = graph.matmul(f"{self.name}.product", x, weight, self.matmul)
        if self.has_bias:
            bias = Weight(f"{self.name}.bias", (self.outputs,), self.initial_bias or uniform)
            x = graph.add(f"{self.name}.sum", x, bias, self.add)
        if self.activation is not None:
            x = graph.activate(f"{self.name}.{self.activation}", self.activation, x, self.activate)
        return x


@dataclass(frozen=True, kw_only=True)
class Network:
    """Samples [batch, *sample_shape] to logits [batch, ..., classes]: one layer after another."""

    name: str
    sample_shape: tuple[int, ...]
    sample_type: Literal["float32", "int32"] = "float32"
    layers: tuple[Layer, ...]
    strategies: Mapping[str, Splits | None] | None = None
    """Strategies by operator, instead of those that the layers declare; an operator that isn't there has none."""
    stages: tuple[int, ...] = ()
    """The pipeline stage of every layer, from 0, as in (0, 0, 1); without them all are in stage 0."""

    def __post_init__(self) -> None:
        if self.stages and len(self.stages) != len(self.layers):
            raise ConfigError(
                f"network {self.name}: expected stages to name one for each of {len(self.layers)} layers, found "
                f"{self.stages}"
            )
        weights = [weight.name for operator in self.operators(1) for weight, _ in operator.weights]
        twice = sorted({name for name in weights if weights.count(name) > 1})
        if twice:
            raise ConfigError(
                f"network {self.name}: the parameters {', '.join(twice)} are used twice; give each its own name"
            )

    def operators(self, batch_size: int) -> tuple[Operator, ...]:
        """All operators, in the order of computation; the last one's output are the logits."""
        graph, x = Graph(), Value("samples", (batch_size, *self.sample_shape))
        try:
            for layer, stage in zip(self.layers, self.stages or (0,) * len(self.layers), strict=True):
                graph.stage = stage
                x = layer(graph, x)
        except ConfigError as error:
            raise ConfigError(f"network {self.name}: {error}") from error
        except AttributeError as error:
            if error.obj is not graph:
                raise
            known = ", ".join(method for method in vars(Graph) if not method.startswith("_"))
            raise ConfigError(
                f"network {self.name}: a layer takes {error.name}, which is no operator that can be sharded; there are "
                f"{known}: see docs/networks.md"
            ) from error
        if self.strategies is None:
            return tuple(graph.operators)
        return tuple(replace(operator, splits=self.strategies.get(operator.name)) for operator in graph.operators)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of every trainable parameter."""
        return {weight.name: weight.shape for operator in self.operators(1) for weight, _ in operator.weights}

    def cell(self, batch_size: int, backend: Backend, seed: int) -> Any:
        """The MindSpore cell of this rank: its slices of the parameters, with the values that `seed` gives them."""
        return backend.cell(self.operators(batch_size), seed)

    def with_strategies(self, strategies: Mapping[str, Splits | None]) -> Network:
        """The same network, each operator with the strategy under its name, or without one."""
        return replace(self, strategies=dict(strategies))


def even_stages(layers: int, stages: int) -> tuple[int, ...]:
    """The stage of each of so many layers, one after another: as many in each stage as can be."""
    return tuple(number * stages // layers for number in range(layers))
