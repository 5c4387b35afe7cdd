"""Rank 0 waits for every rank's receipt, and no longer than it should."""

import threading

import pytest

from shardline.base.errors import TrainingError
from shardline.checkpoint.shards.shard_set import SliceFile
from shardline.training.receipts import Receipts


def slices(rank: int) -> SliceFile:
    return SliceFile(rank, f"rank_{rank}/checkpoint-1_5.ckpt", 10, "0" * 64)


def test_receipts_are_collected_in_the_order_of_ranks(tmp_path):
    receipts = Receipts(tmp_path)
    late = threading.Timer(0.05, receipts.leave, (5, slices(0)))
    late.start()
    for rank in (2, 1):
        receipts.leave(5, slices(rank))
    assert receipts.collect(5, world_size=3) == (slices(0), slices(1), slices(2))
    late.join()


def test_ranks_that_never_save_are_named(tmp_path):
    receipts = Receipts(tmp_path, patience_seconds=0.05)
    receipts.leave(5, slices(1))
    with pytest.raises(TrainingError, match=r"all 3 ranks for '5'.*ranks \[0, 2\] left none"):
        receipts.collect(5, world_size=3)


def test_what_an_earlier_try_left_counts_for_nothing(tmp_path):
    for rank in range(2):
        Receipts(tmp_path).leave(5, slices(rank))
    receipts = Receipts(tmp_path, patience_seconds=0.05)
    receipts.clear()
    receipts.leave(5, slices(0))
    with pytest.raises(TrainingError, match=r"ranks \[1\] left none"):
        receipts.collect(5, world_size=2)


def test_all_ranks_learn_the_same_of_each_other(tmp_path):
    found = {}

    def exchange(rank: int) -> None:
        found[rank] = Receipts(tmp_path, patience_seconds=5).exchange("verified", rank, 3, [f"of rank {rank}"])

    threads = [threading.Thread(target=exchange, args=(rank,)) for rank in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {rank: [["of rank 0"], ["of rank 1"], ["of rank 2"]] for rank in range(3)}


def test_receipts_are_of_one_step(tmp_path):
    receipts = Receipts(tmp_path)
    for step in (5, 10):
        receipts.leave(step, slices(0))
    receipts.discard(5)
    assert receipts.collect(10, world_size=1) == (slices(0),)


def test_ranks_leave_only_when_all_are_at_the_end(tmp_path):
    late = threading.Timer(0.05, Receipts(tmp_path).leave_together, (1, 2))
    late.start()
    Receipts(tmp_path).leave_together(0, 2)
    assert (tmp_path / ".receipts" / "end" / "rank_1.json").exists()
    late.join()


def test_a_rank_that_never_reaches_the_end_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"for 'end'.*ranks \[1\] left none"):
        Receipts(tmp_path, patience_seconds=0.05).leave_together(0, 2)
