"""Cells that the CPU backend refuses: each says in its name why."""

from __future__ import annotations

from functools import partial

import mindspore
from mindspore import nn, ops

from shardline.datasets.digits import Digits
from shardline.networks.cell_network import CellNetwork
from shardline.networks.train_spec import TrainSpec
from shardline.scoring.accuracy import Accuracy
from tests.cells import PICTURE


class Linear(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense, self.flatten = nn.Dense(784, 10), nn.Flatten()

    def construct(self, x):
        return self.dense(self.flatten(x))


class Branch(Linear):
    def construct(self, x):
        y = self.dense(self.flatten(x))
        if y.sum() > 0:
            y = y * 2
        return y


class Dropped(Linear):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(p=0.5)

    def construct(self, x):
        return self.dropout(self.dense(self.flatten(x)))


class Half(Linear):
    def construct(self, x):
        return self.dense(self.flatten(x)).astype(mindspore.float16)


class Unknown(Linear):
    def construct(self, x):
        return ops.CumSum()(self.dense(self.flatten(x)), 1)


def largest(x):
    return ops.topk(x, 10)[0]


class Within(Linear):
    """By a function of ours that calls one of MindSpore's."""

    def construct(self, x):
        y = self.dense(self.flatten(x))
        for _ in range(2):
            y = y + largest(
                y,
            )
        return y


class Nested(nn.Cell):
    """In a cell of MindSpore's in a cell of MindSpore's."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.SequentialCell(Linear(), nn.SequentialCell(nn.Dense(10, 10), nn.Dropout(p=0.5)))

    def construct(self, x):
        return self.blocks(x)


class NestedBranch(nn.Cell):
    def __init__(self):
        super().__init__()
        self.blocks = nn.SequentialCell(Branch())

    def construct(self, x):
        return self.blocks(x)


class Loop(Linear):
    def construct(self, x):
        y = self.dense(self.flatten(x))
        while y.sum() < 100:
            y = y * 2
        return y


class Mismatch(Linear):
    """MindSpore itself refuses it."""

    def construct(self, x):
        return self.dense(self.dense(self.flatten(x)))


class Tied(Linear):
    def construct(self, x):
        x = self.flatten(x)
        return self.dense(x) + self.dense(x * 0.5)


class TwoOutputs(Linear):
    def construct(self, x):
        y = self.dense(self.flatten(x))
        return y, y


class StrategyOfWhole(Linear):
    def __init__(self):
        super().__init__()
        self.sum = ops.ReduceSum(keep_dims=True).shard(((2, 1),))

    def construct(self, x):
        y = self.dense(self.flatten(x))
        return y / self.sum(y, 1)


class OutStrategy(Linear):
    def __init__(self):
        super().__init__()
        self.dense.matmul.shard(((2, 1), (1, 1)), ((2, 1),))


class Frozen(Linear):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(10)

    def construct(self, x):
        return self.norm(self.dense(self.flatten(x)))


class Unused(Linear):
    def __init__(self):
        super().__init__()
        self.spare = nn.Dense(10, 10)


def network_of(build):
    return CellNetwork(name="refused", sample_shape=PICTURE, build=build)


def _spec(build, config):
    return TrainSpec(network=network_of(build), dataset=Digits(), metric=Accuracy(config.min_accuracy))


within = partial(_spec, Within)
nested = partial(_spec, Nested)
nested_branch = partial(_spec, NestedBranch)
loop = partial(_spec, Loop)
tied = partial(_spec, Tied)
strategy_of_whole = partial(_spec, StrategyOfWhole)
mismatch = partial(_spec, Mismatch)
frozen = partial(_spec, Frozen)
unused = partial(_spec, Unused)


def no_cell(config):
    return _spec(lambda: "a cell", config)
