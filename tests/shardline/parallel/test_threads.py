"""Cores and threads that a rank gets of its machine."""

import pytest

from shardline.parallel.threads import keep_to_one_core, threads_per_rank


def of_mpirun(rank: int, ranks: int) -> dict[str, str]:
    return {"OMPI_COMM_WORLD_LOCAL_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_SIZE": str(ranks)}


@pytest.fixture
def kept_to(monkeypatch):
    """The cores that each call chose, of a machine of which 3, 4 and 7 may be used."""
    chosen = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 4, 7})
    monkeypatch.setattr("os.sched_setaffinity", lambda _, cores: chosen.append(cores))
    return chosen


def test_cores_are_shared_out_among_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert threads_per_rank(of_mpirun(0, 8)) == 2
    assert threads_per_rank(of_mpirun(0, 64)) == 1
    assert threads_per_rank({}) is None, "a single rank has them all"


def test_ranks_that_fill_the_cores_take_one_each_in_turn(kept_to):
    for rank in range(4):
        keep_to_one_core(of_mpirun(rank, 4))
    assert kept_to == [{3}, {4}, {7}, {3}]


@pytest.mark.parametrize("environment", [{}, of_mpirun(0, 1), of_mpirun(1, 2)])
def test_ranks_that_leave_cores_free_may_use_them_all(kept_to, environment):
    keep_to_one_core(environment)
    assert kept_to == []
