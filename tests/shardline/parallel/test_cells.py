"""Cells of deep networks: how MindSpore's compiler nests them, and that they compute what they declare."""

from __future__ import annotations

from collections.abc import Iterator

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from shardline.parallel.backends import backend_of
from shardline.parallel.cells import RootCell, _part_of
from shardline.parallel.program import Step
from shardline.recipes.lookup import train_spec
from shardline.settings.run_config import RunConfig
from shardline.training.steps import train_step

DEEP = {"network": "gpt", "hidden_size": 16, "heads": 2, "sequence_length": 8, "batch_size": 4, "optimizer": "AdamW"}
DEFAULT_LIMIT = 1000


@pytest.fixture
def little_nesting() -> Iterator[None]:
    """MindSpore refuses what nests more than 150 calls: a loop over the operators of one block does."""
    mindspore.set_recursion_limit(150)
    yield
    mindspore.set_recursion_limit(DEFAULT_LIMIT)


@pytest.mark.usefixtures("little_nesting")
def test_nesting_does_not_grow_with_the_depth():
    """Forward, backward, norm, clipping, decay and optimizer: 6 blocks compile where one did not."""
    first, second = losses(layers=6, steps=2)
    assert first == pytest.approx(np.log(256), rel=0.05)
    assert second < first


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_48_blocks_compile_and_learn_within_the_default_nesting():
    first, second = losses(layers=48, steps=2)
    assert first == pytest.approx(np.log(256), rel=0.05)
    assert second < first


def losses(*, layers: int, steps: int) -> list[float]:
    config = RunConfig(world_size=1, layers=layers, clip_norm=1.0, learning_rate=0.001, **DEEP)
    spec = train_spec(config)
    backend = backend_of(config, spec.network, rank=0)
    backend.start()
    step = train_step(spec.network.cell(config.batch_size, backend, config.seed), config, backend, total_steps=10)
    samples = np.arange(4 * 8, dtype=np.int32).reshape(4, 8)
    return [float(step(Tensor(samples), Tensor(samples + 1))[0].asnumpy()) for _ in range(steps)]


class Weighted(nn.Cell):
    """a - 2b + 3c: each place counts otherwise."""

    def construct(self, a, b, c):
        return a - 2 * b + 3 * c


class Both(nn.Cell):
    """2a and -b."""

    def construct(self, a, b):
        return 2 * a, -b


def test_values_reach_the_steps_that_take_them_whatever_lies_between():
    """Taken twice in one step, long after it was made, one of two, held or given, or never again."""
    held = {
        "w": Parameter(Tensor(np.float32([7])), name="w"),
        "c": Tensor(np.float32([11])),
    }
    steps = [
        Step(Both(), ("w", "c"), ("double w", "minus c")),
        Step(Weighted(), ("x", "w", "c"), ("a",)),
        Step(ops.Add(), ("a", "a"), ("b",)),
        Step(Weighted(), ("minus c", "b", "w"), ("d",)),
        Step(ops.Mul(), ("d", "x"), ("unused",)),
        Step(Weighted(), ("b", "x", "a"), ("e",)),
        Step(Weighted(), ("double w", "e", "d"), ("out",)),
    ]
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    for number in range(2, 8):
        part = _part_of(steps[:number], steps[number - 1].outputs, held)
        assert (part.takes, part.gives) == (("x",), steps[number - 1].outputs)
        assert part.cell((Tensor(np.float32([2])),))[0].asnumpy().tolist() == [expected(number)]


def expected(number: int) -> float:
    """What the first so many steps give, by hand."""
    x, w, c = 2.0, 7.0, 11.0
    a = x - 2 * w + 3 * c
    b = a + a
    d = -c - 2 * b + 3 * w
    e = b - 2 * x + 3 * a
    return (a, b, d, d * x, e, 2 * w - 2 * e + 3 * d)[number - 2]


class Told(nn.Cell):
    """Takes a value, and gives it times `factor`; remembers which graphs it was told of."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.graphs = factor, []

    @property
    def compile_phase(self):
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, value):
        self.graphs.append(value)
        nn.Cell.compile_phase.fset(self, value)

    def construct(self, x):
        return self.factor * x


class Root(RootCell):
    def __init__(self, below: nn.Cell) -> None:
        super().__init__()
        self.below = below

    def construct(self, x):
        return self.below(x) + 1


def test_cells_are_told_when_their_graph_changes_and_not_at_every_call():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    told = Told(3.0)
    inner = Root(told)
    outer = Root(inner)
    for value in range(1, 6):
        x = Tensor(np.array([value], np.float32))
        assert (inner(x).item(), outer(x).item()) == (3 * value + 1, 3 * value + 2)
    of_inner, of_outer = told.graphs[:2]
    assert of_inner != of_outer
    assert told.graphs == [of_inner, of_outer, of_inner], "the inner one was told of the outer one's in between"
    assert inner(Tensor(np.ones(3, np.float32))).asnumpy().tolist() == [4, 4, 4], "of another shape, another graph"
    assert len(set(told.graphs)) == 3
