"""The ranks verify a shard set together, and all of them take the same one."""

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardline.base.errors import CorruptShard
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory
from shardline.training import candidates
from shardline.training.candidates import Damaged, newest_intact, set_aside
from shardline.training.receipts import Receipts
from tests.shardline.checkpoint.sharding import LAYOUTS, save_manifest, save_shards, save_strategy, tensors
from tests.shardline.training.in_process import damage


@dataclass
class Place:
    """As much of a backend as the search for a shard set asks for."""

    rank: int
    world_size: int


@pytest.fixture
def run(tmp_path):
    """A run in which eight ranks saved the steps 10 and 20."""
    run = RunDirectory(tmp_path)
    strategy = save_strategy(tmp_path / "strategy", LAYOUTS)
    for step in (10, 20):
        save_shards(run.checkpoints, tensors(step), name=f"checkpoint-1_{step}.ckpt")
        shard_set = save_manifest(run.checkpoints, strategy, step=step)
        kept = run.strategy_saved_with(shard_set.strategy_digest)
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(strategy.read_bytes())
    return run


def search(run: RunDirectory, world_size: int) -> list[object]:
    """What each of so many ranks finds, or the error that it raises."""
    found: list[object] = [None] * world_size

    def look(rank: int) -> None:
        try:
            found[rank] = newest_intact(run, Place(rank, world_size), Receipts(run.checkpoints, 10))
        except CorruptShard as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=look, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("world_size", [1, 3, 8, 16])
def test_every_file_is_verified_once_whatever_the_number_of_ranks(run, world_size, monkeypatch):
    verified, digest_of = [], candidates.file_digest

    def counting(file):
        verified.append(file.relative_to(run.checkpoints).as_posix())
        return digest_of(file)

    monkeypatch.setattr(candidates, "file_digest", counting)
    found = search(run, world_size)
    assert [candidate.shard_set.step for candidate in found] == [20] * world_size
    assert sorted(path for path in verified if path.startswith("rank")) == [
        f"rank_{rank}/checkpoint-1_20.ckpt" for rank in range(8)
    ]


@pytest.mark.parametrize("world_size", [1, 4])
def test_what_one_rank_finds_damaged_all_ranks_leave_out(run, world_size, capsys):
    for rank in (5, 6):
        damage(run.checkpoints / f"rank_{rank}" / "checkpoint-1_20.ckpt")
    found = search(run, world_size)
    assert [candidate.shard_set.step for candidate in found] == [10] * world_size
    assert [[each.step for each in candidate.damaged] for candidate in found] == [[20]] * world_size
    assert all(len(candidate.damaged[0].problems) == 2 for candidate in found)
    told = capsys.readouterr().out
    assert told.count("shard set 20 of") == 1, "rank 0 tells it, once"
    assert "checkpoint-1_20.ckpt (rank 5): expected the digest" in told
    assert ShardSet.steps(run.checkpoints) == [10, 20]


def test_where_none_is_left_all_ranks_raise_the_same(run):
    damage(run.checkpoints / "rank_1" / "checkpoint-1_10.ckpt")
    (run.checkpoints / "rank_7" / "checkpoint-1_20.ckpt").unlink()
    found = search(run, 4)
    assert len(set(found)) == 1
    assert "those of steps [20, 10] are all damaged" in found[0]
    assert "rank 7 at step 20 are not there" in found[0]


def test_a_set_that_is_killed_while_it_is_set_aside_is_damaged_still(run, monkeypatch):
    """Its manifest goes last: without it, its slices would be of no set, and the next save removes such."""
    damage(run.checkpoints / "rank_0" / "checkpoint-1_20.ckpt")
    damaged, renamed = Damaged(20, ("a byte",)), []
    rename = Path.rename

    def dying(path, target):
        if len(renamed) == 3:
            raise KeyboardInterrupt
        renamed.append(path)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            set_aside(run.checkpoints, damaged)
    assert ShardSet.steps(run.checkpoints) == [10, 20]
    assert search(run, 1)[0].shard_set.step == 10
    set_aside(run.checkpoints, damaged)
    assert ShardSet.steps(run.checkpoints) == [10]
    assert len([*run.checkpoints.glob("damaged-20*/rank_*/checkpoint-1_20.ckpt")]) == 8, "every file of it"
