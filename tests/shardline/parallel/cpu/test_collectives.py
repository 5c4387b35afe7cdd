"""Sums on real ranks, of both Open MPIs where there are two: values, bits, groups, hosts, waiting, leaving."""

import json
import subprocess
import sys

import pytest

from shardline.base.errors import LaunchError
from shardline.parallel.cpu import collectives
from shardline.run.environment import PROJECT
from tests.shardline.launch.conftest import MPIRUNS
from tests.shardline.parallel.ranks import OPTIONS, rank_environment

LAG = 1.0
PROGRAM = f"""
import json, os, sys, threading, time
from pathlib import Path
import numpy as np
from shardline.parallel.cpu import collectives

rank, size = int(os.environ["OMPI_COMM_WORLD_RANK"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
collectives.join(rank, size)
everyone = collectives.group_of(tuple(range(size)))
pair = collectives.group_of((rank - rank % 2, rank - rank % 2 + 1))
odd = collectives.group_of(tuple(range(rank % 2, size, 2)))
class SeveralHosts:  # as a communicator of ranks on two hosts answers
    def __init__(self, communicator): self.all, self.size = communicator, communicator.size
    def Split_type(self, kind): return self.all.Split(0 if self.all.rank == 0 else 1)
    def Iallreduce(self, *buffers): return self.all.Iallreduce(*buffers)
apart = collectives.Group(SeveralHosts(collectives._mpi().COMM_WORLD))
draws = np.random.default_rng(rank).normal(size=(300, 701)).astype(np.float32)
time.sleep({LAG} * (rank == 1))
before = time.process_time()
with collectives.in_collectives:
    total = everyone.summed(draws)
left = {{
    "processor": time.process_time() - before,
    "seconds": collectives.in_collectives.seconds,
    "difference": float(np.abs(apart.summed(draws) - total).max()),
    "apart": apart.summed(draws).tobytes().hex()[:4000],
    "bits": total.tobytes().hex()[:4000],
    "sum": float(total.sum()),
    "pair": pair.summed(np.array([[rank]], np.int32)).tolist(),
    "odd": odd.summed(np.array(rank, np.float64)).tolist(),
    "transposed": everyone.summed(draws.T).T.tobytes() == total.tobytes(),
}}
# While a thread sums in the graph, another may sum outside of it.
inner = []
thread = threading.Thread(target=lambda: inner.extend(everyone.summed(np.ones(3, np.float32)).tolist()))
thread.start()
left["outside"] = collectives.total([1.0, rank], size)
thread.join()
left["inside"] = inner
Path(sys.argv[1], f"{{rank}}.json").write_text(json.dumps(left))
"""


@pytest.fixture(scope="module", params=MPIRUNS.values(), ids=MPIRUNS.keys())
def left(request, tmp_path_factory):
    """What each of four ranks found; mpirun has to end well."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [str(request.param), *OPTIONS, "-n", "4", sys.executable, "-c", PROGRAM, str(folder)]
    finished = subprocess.run(command, cwd=PROJECT, env=rank_environment(), check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]


def test_all_ranks_get_the_same_bits(left):
    assert len({(rank["bits"], rank["sum"]) for rank in left}) == 1
    assert all(rank["transposed"] for rank in left)


def test_ranks_of_several_hosts_get_the_same_bits_too(left):
    assert len({rank["apart"] for rank in left}) == 1
    assert all(rank["difference"] < 1e-5 for rank in left)


def test_groups_sum_among_themselves(left):
    assert [rank["pair"] for rank in left] == [[[1]], [[1]], [[5]], [[5]]]
    assert [rank["odd"] for rank in left] == [2, 4, 2, 4]


def test_sums_of_two_threads_do_not_mix(left):
    assert [rank["outside"] for rank in left] == [[4, 6]] * 4
    assert [rank["inside"] for rank in left] == [[4, 4, 4]] * 4


def test_a_rank_that_comes_first_waits_asleep(left):
    first, late = left[0], left[1]
    assert first["seconds"] > LAG / 2, "the other rank slept meanwhile"
    assert 0 < late["seconds"] < first["seconds"]
    assert first["processor"] < first["seconds"] / 2, "it would have spun all the while"


@pytest.mark.parametrize(("given", "found"), [({}, "^ofi"), ({"OMPI_MCA_btl": "self,tcp"}, "self,tcp")])
def test_open_mpi_sleeps_for_no_transport_and_keeps_those_that_a_user_names(monkeypatch, given, found):
    monkeypatch.setattr(collectives.os, "environ", environment := dict(given))
    collectives._mpi()
    assert environment["OMPI_MCA_btl"] == found


def test_ranks_that_mpirun_did_not_start_are_refused():
    program = "from shardline.parallel.cpu import collectives; collectives.join(0, 8)"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=rank_environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1
    message = finished.stderr.splitlines()[-1]
    assert message.startswith("shardline.base.errors.LaunchError: expected rank 0 of 8, but MPI says rank 0 of 1")


def test_an_mpi_for_one_thread_is_refused(monkeypatch):
    class Mpi:
        THREAD_MULTIPLE = 3

        class COMM_WORLD:  # noqa: N801 - MPI's name
            rank, size = 0, 2

        Is_initialized = staticmethod(lambda: True)
        Query_thread = staticmethod(lambda: 1)
        Get_library_version = staticmethod(lambda: "Some MPI 1.0\nmore")

    monkeypatch.setattr(collectives, "_mpi", lambda: Mpi)
    with pytest.raises(LaunchError, match=r"^Some MPI 1\.0 was built without MPI_THREAD_MULTIPLE"):
        collectives.join(0, 2)
