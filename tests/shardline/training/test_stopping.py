"""All ranks stop after the same step, whichever of them was told to."""

import os
import signal
import threading

import pytest

from shardline.base.termination import StopRequest
from shardline.training import stopping
from shardline.training.stopping import Stopping
from tests.patience import PATIENCE_S


class Ranks:
    """A sum over ranks that are threads of this process."""

    def __init__(self, world_size: int) -> None:
        self.barrier, self.given = threading.Barrier(world_size), [[0.0, 0.0]] * world_size
        self.collectives = 0

    def backend(self, rank: int):
        ranks = self

        class Backend:
            def __init__(self) -> None:
                self.rank = rank

            def total(self, values):
                ranks.given[rank] = list(values)
                ranks.barrier.wait(timeout=PATIENCE_S)
                sums = [sum(column) for column in zip(*ranks.given, strict=True)]
                ranks.barrier.wait(timeout=PATIENCE_S)
                ranks.collectives += rank == 0
                return sums

        return Backend()


def stopped_after(world_size: int, told: int, at: int, steps: int, first: int = 0) -> tuple[list[int | None], int]:
    """The step after which each rank stops when rank `told` is told to at step `at`; the collectives it took."""
    ranks, found = Ranks(world_size), [None] * world_size

    def train(rank: int) -> None:
        request = StopRequest()
        agreement = Stopping(ranks.backend(rank), request, first)
        for step in range(first + 1, steps + 1):
            request.requested = rank == told and step >= at
            if agreement.agreed(step):
                found[rank] = step
                return

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, ranks.collectives


@pytest.mark.parametrize("told", [0, 3])
def test_all_ranks_stop_after_the_same_step(told, monkeypatch):
    monkeypatch.setattr(stopping, "_MOST_STEPS_BETWEEN", 7)
    found, _ = stopped_after(4, told, at=20, steps=200)
    assert len(set(found)) == 1
    assert 20 <= found[0] <= 27


def test_most_steps_take_no_collective():
    found, collectives = stopped_after(2, told=-1, at=0, steps=1500)
    assert found == [None, None]
    assert collectives < 300


def test_a_run_that_goes_on_from_a_step_asks_from_there():
    found, _ = stopped_after(2, told=1, at=501, steps=520, first=500)
    assert found == [501, 501]


def test_sigterm_is_a_request_while_training_and_ends_the_process_otherwise():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as request:
        assert not request.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.requested
    assert signal.getsignal(signal.SIGTERM) is before
