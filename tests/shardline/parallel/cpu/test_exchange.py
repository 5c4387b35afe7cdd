"""Sums over ranks in a graph: what moves, what is cut out, the squares, and the time that it takes."""

import json
import subprocess
import sys

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from shardline.parallel.cpu.exchange import Exchange, SumOfOwnSquares
from shardline.parallel.placement import Movement
from shardline.run.environment import PROJECT
from tests.shardline.parallel.ranks import mpirun, rank_environment

PROGRAM = """
import json, os, sys, mindspore
from pathlib import Path
import numpy as np
from mindspore import Tensor
from shardline.parallel.cpu import collectives
from shardline.parallel.cpu.exchange import Exchange, SumOfSquares
from shardline.parallel.placement import Movement
from tests.shardline.parallel.cpu.test_exchange import InTurn
mindspore.set_context(mode=mindspore.GRAPH_MODE)
mindspore.set_device("CPU")
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
collectives.join(rank, 2)
add = Exchange([Movement(None, (0, 1), None)], [(1, 2)])
sums = [add((Tensor([[1.0, step + rank]], mindspore.float32),))[0].asnumpy().tolist() for step in range(3)]
columns = Movement(((0, 0), (rank, 1 - rank)), (0, 1), None)  # each has one of two columns
rows = Movement(None, (0, 1), (slice(rank, rank + 1), slice(0, 2)))  # each wants one of two rows of a sum
both = Exchange([columns, rows], [(2, 1), (2, 2)])
part = Tensor([[10.0 + rank], [20.0 + rank]], mindspore.float32)
term = Tensor([[1.0 + rank, 2.0], [3.0, 4.0]], mindspore.float32)
moved = [tensor.asnumpy().tolist() for tensor in both((part, term))]
loss = Exchange([Movement(None, (0, 1), None)], [()])((Tensor(1.5 + rank, mindspore.float32),))[0].asnumpy().tolist()
in_turn = []
for shape in ((3,), (300, 100), (900, 700)):  # summed by every rank, in parts, in rounds
    found = InTurn(shape)(Tensor(np.full(shape, 1.0 + rank, np.float32)))
    in_turn.append([sorted(set(tensor.asnumpy().flatten().tolist())) for tensor in found])
of_squares = SumOfSquares((1.0, 0.5), (0, 1))
squares = of_squares((part, term)).asnumpy().tolist()
wanted = of_squares.measure(False), of_squares((part, term)).asnumpy().tolist(), of_squares.measure(True)
squares = [squares, *map(str, wanted), of_squares((part, term)).asnumpy().tolist()]
left = [sums, moved, in_turn, loss, squares, collectives.in_collectives.seconds]
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(left))
"""


class InTurn(nn.Cell):
    """Three sums of two ranks, each of the one before and 1."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.second, self.third = (Exchange([Movement(None, (0, 1), None)], [shape]) for _ in range(3))

    def construct(self, x):
        first = self.first((x,))[0]
        second = self.second((first + 1,))[0]
        return first, second, self.third((second + 1,))[0]


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What each of two ranks found: sums, moved tensors, sums of sums, the sum of a scalar, squares, seconds."""
    folder = tmp_path_factory.mktemp("exchange")
    command = [*mpirun(2), sys.executable, "-c", PROGRAM, str(folder)]
    finished = subprocess.run(command, cwd=PROJECT, env=rank_environment(), check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_the_graph_gets_the_sum_and_its_time_is_taken(left):
    assert [sums for sums, *_ in left] == [[[[2.0, 1.0]], [[2.0, 3.0]], [[2.0, 5.0]]]] * 2
    assert all(seconds > 0 for *_, seconds in left)


def test_what_moves_together_is_gathered_or_summed_and_cut_each_as_it_wants(left):
    gathered = [[10.0, 11.0], [20.0, 21.0]]
    assert [moved for _, moved, *_ in left] == [[gathered, [[3.0, 4.0]]], [gathered, [[6.0, 8.0]]]]


def test_a_sum_is_its_own_though_others_follow_it(left):
    assert [in_turn for _, _, in_turn, *_ in left] == [[[[3.0], [8.0], [18.0]]] * 3] * 2


def test_what_has_no_dimensions_is_summed_too(left):
    assert [loss for *_, loss, _, _ in left] == [4.0, 4.0]


def test_squares_are_summed_over_ranks_each_tensors_times_its_share_where_they_are_wanted(left):
    first, second = 10**2 + 20**2 + 0.5 * (1 + 4 + 9 + 16), 11**2 + 21**2 + 0.5 * (4 + 4 + 9 + 16)
    assert [squares for *_, squares, _ in left] == [[[first + second], "False", "[nan]", "True", [first + second]]] * 2


def test_squares_of_many_numbers_are_those_of_float64():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    tensors = [np.random.default_rng(1).normal(0.1, 1, shape).astype(np.float32) for shape in ((700, 512), (3,), ())]
    found = SumOfOwnSquares((1.0, 0.5, 0.25))(tuple(map(Tensor, tensors))).asnumpy()
    expected = sum(s * (t.astype(np.float64) ** 2).sum() for s, t in zip((1, 0.5, 0.25), tensors, strict=True))
    np.testing.assert_allclose(found, [expected], rtol=2e-7)


def test_squares_are_measured_where_they_are_wanted_alone():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    squares = SumOfOwnSquares((1.0,))
    asked = [(squares.measure(wanted), squares((Tensor(np.ones(5, np.float32)),)).item()) for wanted in (True, False)]
    assert asked[0] == (True, 5.0)
    assert asked[1][0] is False
    assert np.isnan(asked[1][1])
    assert squares.measure(True)
    assert squares((Tensor(np.full(3, 2, np.float32)),)).item() == 12.0
