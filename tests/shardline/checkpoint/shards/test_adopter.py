"""Adopting while a program saves: once a save has settled, each once, and what is said."""

import os

import numpy as np
import pytest

from shardline.base.errors import CorruptShard, MissingShard, StepMismatch
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.adopter import Adopter
from shardline.checkpoint.shards.adoption import Cut, steps_since
from shardline.checkpoint.shards.shard_set import ShardSet
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    return tmp_path / "checkpoint"


@pytest.fixture
def told():
    return []


@pytest.fixture
def adopter(folder, told, tmp_path):
    cut = Cut.of([save_strategy(tmp_path / "strategy.ckpt")])
    return Adopter(folder, lambda: cut, told.append, settled_after=10)


def save(folder, step, seed=0, ranks=8):
    save_shards(
        folder, tensors(seed) | {"global_step": np.array(step, np.int32)}, name=f"C-1_{step}.ckpt", world_size=ranks
    )


def test_a_save_is_adopted_when_it_has_not_changed_for_a_while(adopter, folder, told):
    save(folder, 20)
    assert adopter.look(100) == []
    save(folder, 20, seed=1)  # half of it might have been there
    assert adopter.look(109) == []
    assert adopter.look(118) == []
    assert [found.shard_set.step for found in adopter.look(119)] == [20]
    assert told[0].startswith("adopted shard set 20 (global_step in the files) from 8 files, rank_0/C-1_20.ckpt")
    assert adopter.look(130) == []


def test_at_the_programs_end_nothing_is_waited_for(adopter, folder):
    save(folder, 20)
    save(folder, 30)
    assert [found.shard_set.step for found in adopter.look(100, has_ended=True)] == [20, 30]


def test_a_save_on_some_ranks_only_is_not_adopted_and_said(adopter, folder, told):
    save(folder, 20, ranks=3)
    assert adopter.look(100, has_ended=True) == []
    error = adopter.nothing_adopted()
    assert isinstance(error, MissingShard)
    assert "shards over 8 ranks, there are folders of 3" in str(error)
    assert told == []


def test_a_later_save_that_some_ranks_lack_leaves_the_one_before(adopter, folder):
    save(folder, 20)
    save(folder, 30, ranks=3)
    assert [found.shard_set.step for found in adopter.look(100, has_ended=True)] == [20]


def test_nothing_saved_says_what_was_expected(adopter):
    assert adopter.look(100, has_ended=True) == []
    assert "expected folders rank_0, rank_1, …" in str(adopter.nothing_adopted())


def test_what_is_refused_is_said_once_and_tried_again_at_the_end(adopter, folder, told):
    save(folder, 20)
    path = folder / "rank_1" / "C-1_20.ckpt"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    adopter.look(100)
    assert adopter.look(110) == []
    assert adopter.look(111) == []
    assert adopter.look(112, has_ended=True) == []
    assert len(told) == 1
    assert told[0].startswith("C-1_20.ckpt is not adopted: ")
    assert isinstance(adopter.nothing_adopted(), CorruptShard)
    path.write_bytes(whole)
    assert len(adopter.look(113, has_ended=True)) == 1
    assert adopter.refused == {}


def test_a_strategy_that_is_not_there_yet_is_waited_for(folder, told, tmp_path):
    strategy = tmp_path / "strategy.ckpt"
    adopter = Adopter(folder, lambda: Cut.of([strategy]) if strategy.exists() else None, told.append)
    save(folder, 20)
    assert adopter.look(100) == []
    strategy.write_bytes(b"")  # it is being written
    assert adopter.look(101) == []
    assert "found an empty one" in str(adopter.nothing_adopted())
    save_strategy(strategy)
    assert len(adopter.look(102)) == 1


def test_only_the_files_that_are_meant_count(folder, told, tmp_path):
    cut = Cut.of([save_strategy(tmp_path / "strategy.ckpt")])
    adopter = Adopter(folder, lambda: cut, told.append, counts=lambda files: files[0].name.startswith("D-"))
    save(folder, 20)
    assert adopter.look(100) == []


def test_ranks_of_two_trainings_under_one_name_are_not_adopted(adopter, folder, told):
    save(folder, 20)
    save(folder, 20, seed=1, ranks=4)
    for rank in range(4):
        write_checkpoint({"w": np.zeros(2, np.float32)}, folder / f"rank_{rank}" / "D-1_5.ckpt")
    _write_times(folder)
    assert adopter.look(100, has_ended=True) == []
    assert isinstance(adopter.nothing_adopted(), StepMismatch)


def _write_times(folder):
    """Ranks 4 to 7 saved an hour before D began, ranks 0 to 3 an hour after it."""
    for path in folder.rglob("*.ckpt"):
        rank = int(path.parent.name.removeprefix("rank_"))
        time = 5000 if path.name.startswith("D") else 9000 if rank < 4 else 1000
        os.utime(path, (time, time))


def test_what_the_program_removes_is_withdrawn(adopter, folder, told):
    save(folder, 20)
    adopter.look(100, has_ended=True)
    for path in folder.rglob("C-1_20.ckpt"):
        path.unlink()
    save(folder, 30)
    adopter.look(101, has_ended=True)
    assert ShardSet.steps(folder) == [30]
    assert "shard_set-20.json is withdrawn: the program has removed all of its files" in told


def started_after(folder):
    """Let the manifests that are there be a second older; the moment after them, when a next try starts."""
    manifests = [ShardSet.path(folder, step) for step in ShardSet.steps(folder)]
    newest = max(path.stat().st_mtime_ns for path in manifests)
    for path in manifests:
        os.utime(path, ns=(newest - 10**9, newest - 10**9))
    return newest - 1


def test_a_step_that_the_program_saves_again_counts_in_place_of_the_one_before(adopter, folder, told):
    save(folder, 20)
    adopter.look(100, has_ended=True)
    before = ShardSet.newest(folder)
    adopter.since = started_after(folder)
    save(folder, 20, seed=1)
    (found,) = adopter.look(101, has_ended=True)
    assert found.notices[0] == "step 20 was saved again: what an earlier try saved no longer counts"
    now = ShardSet.newest(folder)
    now.verify(folder)
    assert [item.path for item in now.slices] == [item.path for item in before.slices]
    assert now != before
    save(folder, 20, seed=2)  # within one try it is no longer the file that it was
    assert adopter.look(102, has_ended=True) == []
    assert "was changed since it was adopted as step 20" in told[-1]


def test_the_same_bytes_saved_again_are_of_this_try(adopter, folder):
    save(folder, 20)
    adopter.look(100, has_ended=True)
    adopter.since = started_after(folder)
    save(folder, 20)
    assert steps_since(folder, adopter.since) == []
    assert adopter.look(101, has_ended=True) == []
    assert steps_since(folder, adopter.since) == [20]


def test_saves_from_before_the_program_was_started_are_left_as_they_are(adopter, folder):
    save(folder, 20)
    adopter.since, adopter.only_since = max(path.stat().st_mtime_ns for path in folder.glob("*/*")) + 1, True
    save(folder, 30)
    for path in folder.glob("*/C-1_30.ckpt"):
        os.utime(path, ns=(adopter.since, adopter.since))
    assert [found.shard_set.step for found in adopter.look(100, has_ended=True)] == [30]
