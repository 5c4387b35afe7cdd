"""The layers of a GPT-style transformer, split over data- and tensor-parallel ranks as Megatron does.

Between layers, activations are [batch × positions, hidden]: rows split over the data-parallel ranks, whole on the
tensor-parallel ones. Query, key, value and the first half of the feed-forward network are cut by columns, so that a
rank computes whole heads; what follows is cut by rows, and its sum is the one AllReduce of each half. The token
embedding and the language model's head are cut by vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from shardline.networks.declaration import Dense
from shardline.networks.graph import Graph
from shardline.networks.operators import Splits
from shardline.networks.values import CausalMask, Constant, Fill, Normal, Value, Weight

_EMBEDDING = Normal(0.02)  # the deviation of GPT-2


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes that the layers of one transformer have in common."""

    layers: int
    hidden_size: int
    heads: int
    positions: int
    vocabulary: int
    data_parallel: int = 1
    tensor_parallel: int = 1

    @property
    def rows(self) -> Splits:
        """The strategy of an operator on [batch × positions, hidden] alone."""
        return ((self.data_parallel, 1),)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Token ids int32 [batch, positions] to [batch × positions, hidden]: a row for the token, one for its position."""

    name: str
    sizes: Sizes

    def __call__(self, graph: Graph, ids: Value) -> Value:
        sizes, data = self.sizes, self.sizes.data_parallel
        tokens = Weight(f"{self.name}.tokens", (sizes.vocabulary, sizes.hidden_size), _EMBEDDING)
        positions = Weight(f"{self.name}.positions", (sizes.positions, sizes.hidden_size), _EMBEDDING)
        x = graph.gather(f"{self.name}.rows", tokens, ids, ((sizes.tensor_parallel, 1), (data, 1)))
        x = graph.add(f"{self.name}.placed", x, positions, ((data, 1, 1), (1, 1)))
        return graph.reshape(f"{self.name}.flat", x, (ids.shape[0] * sizes.positions, sizes.hidden_size))


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """x [rows, hidden] normalised over hidden, then scaled and shifted by parameters that all ranks hold."""

    name: str
    sizes: Sizes

    def __call__(self, graph: Graph, x: Value) -> Value:
        hidden = (self.sizes.hidden_size,)
        gamma = Weight(f"{self.name}.gamma", hidden, Fill(1.0))
        beta = Weight(f"{self.name}.beta", hidden, Fill(0.0))
        return graph.layer_norm(f"{self.name}.normal", x, gamma, beta, (*self.sizes.rows, (1,), (1,)))


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Causal self-attention of x [batch × positions, hidden]; the heads are shared out to tensor-parallel ranks."""

    name: str
    sizes: Sizes

    def __call__(self, graph: Graph, x: Value) -> Value:
        query, key, value = (self._heads(graph, x, part) for part in ("query", "key", "value"))
        probabilities = self._probabilities(graph, query, key)
        cut = self._cut
        mixed = graph.batch_matmul(f"{self.name}.mixed", probabilities, value, (cut, cut))
        mixed = graph.transpose(f"{self.name}.positions_first", mixed, (0, 2, 1, 3), (cut,))
        joined = graph.reshape(f"{self.name}.joined", mixed, x.shape)
        hidden = self.sizes.hidden_size
        return row_parallel(f"{self.name}.output", hidden, hidden, self.sizes)(graph, joined)

    @property
    def _cut(self) -> tuple[int, ...]:
        """The parts of [batch, heads, positions, ...]."""
        return (self.sizes.data_parallel, self.sizes.tensor_parallel, 1, 1)

    def _heads(self, graph: Graph, x: Value, part: str) -> Value:
        """The query, key or value of every head: [batch, heads, positions, size of a head]."""
        sizes, hidden = self.sizes, self.sizes.hidden_size
        y = column_parallel(f"{self.name}.{part}", hidden, hidden, sizes)(graph, x)
        shape = (x.shape[0] // sizes.positions, sizes.positions, sizes.heads, hidden // sizes.heads)
        y = graph.reshape(f"{self.name}.{part}.parted", y, shape)
        data, tensor = sizes.data_parallel, sizes.tensor_parallel
        return graph.transpose(f"{self.name}.{part}.heads", y, (0, 2, 1, 3), ((data, 1, tensor, 1),))

    def _probabilities(self, graph: Graph, query: Value, key: Value) -> Value:
        """How much each position looks at each: [batch, heads, positions, positions]."""
        cut, positions = self._cut, self.sizes.positions
        query = graph.multiply(f"{self.name}.scaled", query, 1 / sqrt(query.shape[-1]), (cut, ()))
        scores = graph.batch_matmul(f"{self.name}.scores", query, key, (cut, cut), transposed=True)
        mask = Constant("causal_mask", (positions, positions), CausalMask())
        return graph.softmax(
            f"{self.name}.softmax", graph.add(f"{self.name}.masked", scores, mask, (cut, (1, 1))), (cut,)
        )


@dataclass(frozen=True, kw_only=True)
class Block:
    """x + attention(norm(x)), then x + feed_forward(norm(x)), as in GPT-2."""

    name: str
    sizes: Sizes

    def __call__(self, graph: Graph, x: Value) -> Value:
        sizes, inner = self.sizes, 4 * self.sizes.hidden_size
        y = LayerNorm(name=f"{self.name}.norm1", sizes=sizes)(graph, x)
        y = Attention(name=f"{self.name}.attention", sizes=sizes)(graph, y)
        x = graph.add(f"{self.name}.attended", x, y, sizes.rows * 2)
        y = LayerNorm(name=f"{self.name}.norm2", sizes=sizes)(graph, x)
        up = replace(column_parallel(f"{self.name}.up", sizes.hidden_size, inner, sizes), activation="gelu")
        y = up(graph, y)
        y = row_parallel(f"{self.name}.down", inner, sizes.hidden_size, sizes)(graph, y)
        return graph.add(f"{self.name}.fed", x, y, sizes.rows * 2)


@dataclass(frozen=True, kw_only=True)
class Head:
    """x [batch × positions, hidden] to logits [batch, positions, vocabulary]."""

    name: str
    sizes: Sizes

    def __call__(self, graph: Graph, x: Value) -> Value:
        sizes = self.sizes
        dense = replace(column_parallel(self.name, sizes.hidden_size, sizes.vocabulary, sizes), has_bias=False)
        return graph.reshape(
            f"{self.name}.logits", dense(graph, x), (x.shape[0] // sizes.positions, sizes.positions, sizes.vocabulary)
        )


def column_parallel(name: str, inputs: int, outputs: int, sizes: Sizes) -> Dense:
    """A Dense layer that gives each tensor-parallel rank its part of the outputs."""
    data, tensor = sizes.data_parallel, sizes.tensor_parallel
    return Dense(
        name=name,
        inputs=inputs,
        outputs=outputs,
        initial=_EMBEDDING,
        initial_bias=Fill(0.0),
        matmul=((data, 1), (1, tensor)),
        add=((data, tensor), (tensor,)),
        activate=((data, tensor),),
    )


def row_parallel(name: str, inputs: int, outputs: int, sizes: Sizes) -> Dense:
    """A Dense layer that takes each tensor-parallel rank's part of the inputs; it starts as small as in GPT-2."""
    data, tensor = sizes.data_parallel, sizes.tensor_parallel
    return Dense(
        name=name,
        inputs=inputs,
        outputs=outputs,
        initial=Normal(_EMBEDDING.deviation / sqrt(2 * sizes.layers)),
        initial_bias=Fill(0.0),
        matmul=((data, tensor), (tensor, 1)),
        add=((data, 1), (1,)),
    )
