"""Networks as anyone writes them with MindSpore: plain cells, sharded by `.shard()`, and factories that name them."""

from __future__ import annotations

import math

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from shardline.datasets.digits import Digits
from shardline.datasets.text import Text
from shardline.networks.cell_network import CellNetwork
from shardline.networks.initial import initial_slice
from shardline.networks.train_spec import TrainSpec
from shardline.recipes.examples import tutorial_cell
from shardline.recipes.mlp import MLP
from shardline.scoring.accuracy import Accuracy
from shardline.scoring.perplexity import Perplexity

PICTURE = (1, 28, 28)
POSITIONS, HIDDEN, HEADS, VOCABULARY = 16, 32, 4, 256


class Residual(nn.Cell):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Dense(784, 64), nn.Dense(64, 10)
        self.norm = nn.LayerNorm((64,))
        self.up, self.down = nn.Dense(64, 256, activation="relu"), nn.Dense(256, 64)

    def construct(self, x):
        x = ops.tanh(self.stem(x.reshape(x.shape[0], -1)))
        x = x + self.down(self.up(self.norm(x)))
        return self.head(x)


def residual_cell():
    net = Residual()
    net.up.matmul.shard(((2, 1), (2, 1)))
    net.up.bias_add.shard(((2, 2), (2,)))
    net.down.matmul.shard(((2, 2), (1, 2)))
    return net


class Convolutional(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, pad_mode="same", has_bias=True)
        self.second = nn.Conv2d(4, 8, 3, stride=2, pad_mode="pad", padding=1)
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten()
        self.head = nn.Dense(8 * 7 * 7, 10)

    def construct(self, x):
        x = self.relu(self.first(x))
        x = self.pool(self.relu(self.second(x)))
        return self.head(self.flatten(x))


def convolutional_cell():
    net = Convolutional()
    net.first.conv2d.shard(((4, 1, 1, 1), (1, 1, 1, 1)))
    net.first.bias_add.shard(((4, 1, 1, 1), (1,)))
    net.second.conv2d.shard(((4, 1, 1, 1), (1, 1, 1, 1)))
    net.pool.max_pool.shard(((4, 1, 1, 1),))
    net.head.matmul.shard(((4, 1), (1, 1)))
    net.head.bias_add.shard(((4, 1), (1,)))
    return net


def sharded_dense(inputs, outputs, cut, data, *, has_bias=True):
    """A dense layer cut by columns or by rows in two, its samples in `data` parts."""
    dense = nn.Dense(inputs, outputs, has_bias=has_bias)
    columns, rows = (2, 1) if cut == "columns" else (1, 2)
    dense.matmul.shard(((data, rows), (columns, rows)))
    if has_bias:
        dense.bias_add.shard(((data, columns), (columns,)))
    return dense


class Attention(nn.Cell):
    def __init__(self, data):
        super().__init__()
        self.query, self.key, self.value = (sharded_dense(HIDDEN, HIDDEN, "columns", data) for _ in range(3))
        self.output = sharded_dense(HIDDEN, HIDDEN, "rows", data)
        cut = (data, 2, 1, 1)
        self.heads_first = ops.Transpose().shard(((data, 1, 2, 1),))
        self.positions_first = ops.Transpose().shard((cut,))
        self.scores = ops.BatchMatMul(transpose_b=True).shard((cut, cut))
        self.scale = ops.Mul().shard((cut, ()))
        self.masked = ops.Add().shard((cut, (1, 1)))
        self.softmax = ops.Softmax().shard((cut,))
        self.mixed = ops.BatchMatMul().shard((cut, cut))
        self.dropout = nn.Dropout(p=0.0)
        self.mask = Tensor(np.triu(np.full((POSITIONS, POSITIONS), -1e4, np.float32), 1))

    def split(self, x, batch):
        return self.heads_first(x.reshape(batch, POSITIONS, HEADS, HIDDEN // HEADS), (0, 2, 1, 3))

    def construct(self, x):
        batch = x.shape[0]
        query, key = self.split(self.query(x), batch), self.split(self.key(x), batch)
        scores = self.scale(self.scores(query, key), 1 / math.sqrt(HIDDEN // HEADS))
        weights = self.dropout(self.softmax(self.masked(scores, self.mask)))
        mixed = self.mixed(weights, self.split(self.value(x), batch))
        return self.output(self.positions_first(mixed, (0, 2, 1, 3)).reshape(batch, POSITIONS, HIDDEN))


class Block(nn.Cell):
    def __init__(self, data):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm((HIDDEN,)), nn.LayerNorm((HIDDEN,))
        self.attention = Attention(data)
        self.up = sharded_dense(HIDDEN, 4 * HIDDEN, "columns", data)
        self.down = sharded_dense(4 * HIDDEN, HIDDEN, "rows", data)
        self.gelu = nn.GELU()
        self.add1, self.add2 = (ops.Add().shard(((data, 1, 1), (data, 1, 1))) for _ in range(2))
        for norm in (self.norm1, self.norm2):
            norm.layer_norm.shard(((data, 1, 1), (1,), (1,)))

    def construct(self, x):
        x = self.add1(x, self.attention(self.norm1(x)))
        return self.add2(x, self.down(self.gelu(self.up(self.norm2(x)))))


class Gpt(nn.Cell):
    def __init__(self, data):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(POSITIONS, HIDDEN)
        self.tokens.gather.shard(((2, 1), (data,)))
        self.placed = ops.Add().shard(((data, 1, 1), (1, 1)))
        self.blocks = nn.SequentialCell(Block(data))
        self.norm = nn.LayerNorm((HIDDEN,))
        self.norm.layer_norm.shard(((data, 1, 1), (1,), (1,)))
        self.head = sharded_dense(HIDDEN, VOCABULARY, "columns", data, has_bias=False)
        self.order = Tensor(np.arange(POSITIONS), mindspore.int32)

    def construct(self, ids):
        return self.head(self.norm(self.blocks(self.placed(self.tokens(ids), self.positions(self.order)))))


def _of_digits(name, build, config):
    network = CellNetwork(name=name, sample_shape=PICTURE, build=build)
    return TrainSpec(network=network, dataset=Digits(), metric=Accuracy(config.min_accuracy))


def tutorial_as_mlp(config):
    """The example that ships, from the values that the built-in network starts from."""

    def build():
        cell = tutorial_cell.sharded()
        starts = {weight.name: weight for operator in MLP.operators(1) for weight, _ in operator.weights}
        for parameter in cell.get_parameters():
            whole = tuple(slice(0, size) for size in parameter.shape)
            parameter.set_data(Tensor(initial_slice(starts[parameter.name], whole, config.seed)))
        return cell

    return _of_digits("tutorial", build, config)


def residual(config):
    return _of_digits("residual", residual_cell, config)


def convolutional(config):
    return _of_digits("convolutional", convolutional_cell, config)


def gpt(config):
    data = max(config.world_size // 2, 1)
    network = CellNetwork(name="gpt", sample_shape=(POSITIONS,), sample_type="int32", build=lambda: Gpt(data))
    return TrainSpec(network=network, dataset=Text(POSITIONS), metric=Perplexity.of(config))


class Many(nn.Cell):
    """One use at least of everything that can be read and that no other cell here takes."""

    def __init__(self):
        super().__init__()
        self.dense, self.flatten = nn.Dense(784, 10), nn.Flatten()
        self.tile, self.expand, self.squeeze, self.slice = ops.Tile(), ops.ExpandDims(), ops.Squeeze(1), ops.Slice()
        self.broadcast_to = ops.BroadcastTo((-1, 10))
        self.mean, self.least, self.most = ops.ReduceMean(keep_dims=True), ops.ReduceMin(), ops.ReduceMax(True)
        self.total = ops.ReduceSum(keep_dims=True)
        self.erf, self.log_softmax, self.divide = ops.Erf(), ops.LogSoftmax(), ops.RealDiv()
        self.less, self.more, self.silu = ops.Minimum(), ops.Maximum(), nn.SiLU()

    def construct(self, x):
        y = self.dense(self.flatten(x))
        positive = ops.exp(y) + ops.sigmoid(y) + ops.square(y) + ops.abs(y)
        z = ops.log(positive) + ops.sqrt(positive) + ops.rsqrt(positive) + self.erf(y) - self.silu(y) + ops.neg(y) * 3
        z = self.less(self.more(z, y), z / 2 + 1.5) - 0.5
        z = z + self.broadcast_to(self.mean(z, 1)) * self.divide(z, self.total(positive, 1))
        z = z + self.expand(self.least(z, 1), 1) - self.most(z, 0)
        z = z * self.squeeze(self.tile(self.expand(z, 1), (1, 1, 2)))[:, :10]
        z = z + self.slice(z, (0, 1), (8, 1)) + y.sum() + y.mean(1, keep_dims=True)
        for chosen in (z > y, z >= y, z < y, z <= y, z == y, z != y):
            z = ops.select(chosen, z + 0.5, ops.sin(z) * ops.cos(z))
        return self.log_softmax(z)


def many(config):
    return _of_digits("many", Many, config)
