"""Sums through shared memory on real ranks: each length and type, round after round, whoever is late."""

import ctypes
import json
import subprocess
import sys

import numpy as np
import pytest

from shardline.base.errors import LaunchError
from shardline.parallel.cpu import host_sum
from shardline.run.environment import PROJECT
from tests.shardline.parallel.ranks import mpirun, rank_environment

RANKS = 3
IN_ONE = host_sum._WHOLE // 4
IN_A_WINDOW = host_sum._WINDOW // 4
LENGTHS = [
    0,
    1,
    2,
    3,
    IN_ONE - 1,
    IN_ONE,
    IN_ONE + 1,
    IN_A_WINDOW - 1,
    IN_A_WINDOW,
    IN_A_WINDOW + 1,
    2 * IN_A_WINDOW + 5,
]
OF_ROOMS = [0, 70, IN_ONE + 70, IN_A_WINDOW, IN_A_WINDOW + 70]
ROUNDS = 300
PROGRAM = f"""
import json, os, sys, time
from pathlib import Path
import numpy as np
from shardline.parallel.cpu import collectives
from shardline.parallel.cpu.host_sum import HostSum
from tests.shardline.parallel.cpu.test_host_sum import given

rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
collectives.join(rank, {RANKS})
world = collectives._mpi().COMM_WORLD
summed, other = HostSum(world), HostSum(world)
for length in {LENGTHS}:
    np.save(Path(sys.argv[1], f"{{rank}}-{{length}}"), summed(given(rank, length)))
for kind in ("float16", "float64", "int32"):
    np.save(Path(sys.argv[1], f"{{rank}}-{{kind}}"), summed(given(rank, 70).astype(kind).reshape(7, 5, 2)[:, ::-1]))
for length in {OF_ROOMS}:
    room = summed.room(length, np.dtype(np.float32))
    room[:] = given(rank, length)
    np.save(Path(sys.argv[1], f"{{rank}}-room-{{length}}"), summed.of_room(room))
# Another rank is late every time; short sums, long ones and another communicator's take turns.
draw = np.random.default_rng(rank)
wrong = 0
for number in range({ROUNDS}):
    if number % {RANKS} == rank:
        time.sleep(draw.uniform(0, 2e-3))
    values = np.full(5 if number % 2 else {IN_ONE} + 9, rank + number, np.float64)
    sums = (other if number % 5 == 0 else summed)(values)
    wrong += int((sums != {RANKS} * number + sum(range({RANKS}))).sum())
Path(sys.argv[1], f"{{rank}}.json").write_text(json.dumps(wrong))
"""


def given(rank: int, length: int) -> np.ndarray:
    return np.random.default_rng([rank, length]).normal(1, 30, length).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What each of the ranks has summed."""
    folder = tmp_path_factory.mktemp("sums")
    command = [*mpirun(RANKS), sys.executable, "-c", PROGRAM, str(folder)]
    finished = subprocess.run(command, cwd=PROJECT, env=rank_environment(), check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


@pytest.mark.parametrize("length", LENGTHS)
def test_values_are_added_in_the_order_of_the_ranks_on_every_rank(folder, length):
    expected = sum((given(rank, length) for rank in range(1, RANKS)), given(0, length))
    for rank in range(RANKS):
        found = np.load(folder / f"{rank}-{length}.npy")
        assert (found.dtype, found.tobytes()) == (expected.dtype, expected.tobytes())


@pytest.mark.parametrize("length", OF_ROOMS)
def test_values_laid_down_in_the_room_that_is_offered_are_added_the_same(folder, length):
    expected = sum((given(rank, length) for rank in range(1, RANKS)), given(0, length))
    assert [np.load(folder / f"{rank}-room-{length}.npy").tobytes() for rank in range(RANKS)] == [
        expected.tobytes()
    ] * RANKS


@pytest.mark.parametrize("kind", ["float16", "float64", "int32"])
def test_any_type_and_order_of_dimensions(folder, kind):
    parts = [given(rank, 70).astype(kind).reshape(7, 5, 2)[:, ::-1] for rank in range(RANKS)]
    for rank in range(RANKS):
        found = np.load(folder / f"{rank}-{kind}.npy")
        assert found.dtype == kind
        np.testing.assert_array_equal(found, parts[0] + parts[1] + parts[2])


def test_no_rank_reads_what_another_lays_down_next(folder):
    assert [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)] == [0] * RANKS


def test_a_meeting_that_fails_is_an_error_not_a_wrong_sum():
    with pytest.raises(LaunchError, match=r"^pthread_barrierattr_setpshared: Invalid argument; the ranks of this host"):
        host_sum._expect_well("pthread_barrierattr_setpshared", ctypes.create_string_buffer(64), 7)
