"""What a described training's run adopts: what its description says are slices, cut as its strategy files say."""

import json

import numpy as np
import pytest

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.adopting import adopter_of
from shardline.run.directory import RunDirectory
from shardline.settings.training import Training
from shardline.settings.training_config import TrainingConfig
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors


@pytest.fixture
def run(tmp_path):
    (tmp_path / "output" / "checkpoint").mkdir(parents=True)
    (tmp_path / "src_checkpoints").symlink_to("output/checkpoint")
    return RunDirectory(tmp_path)


def adopter(run, told=None, **slices: object):
    described = {
        "name": "mine",
        "command": ["true"],
        "ranks": 8,
        "slices": {"files": "output/checkpoint/rank_*/M_rank_*.ckpt", "strategies": "strategy/*.ckpt"} | slices,
    }
    config = TrainingConfig(
        training=Training.model_validate_json(json.dumps(described)),
        training_file="/trainings/mine.toml",
        values={},
        world_size=8,
        device_target="CPU",
        model_name="mine",
        termination_grace=1,
    )
    return adopter_of(run, config, [].append if told is None else told.append)


def save(run, name="M_rank_0-1_20.ckpt", **more: np.ndarray):
    save_shards(run.checkpoints, tensors() | more, name=name)
    for rank in range(8):
        path = run.checkpoints / f"rank_{rank}" / name
        path.rename(path.with_name(name.replace("rank_0", f"rank_{rank}")))


def save_strategies(run):
    """One a rank, and all equal, as MindFormers leaves them."""
    (run.path / "strategy").mkdir()
    for rank in range(8):
        save_strategy(run.path / "strategy" / f"ckpt_strategy_rank_{rank}.ckpt")


def test_mindformers_folder_is_adopted_where_it_lies(run):
    save(run)
    save_strategies(run)
    told = []
    adopter(run, told).look(0, has_ended=True)
    shard_set = ShardSet.read(run.path / "output" / "checkpoint" / "shard_set-20.json")
    assert [item.path for item in shard_set.slices] == [f"rank_{rank}/M_rank_{rank}-1_20.ckpt" for rank in range(8)]
    assert run.strategy_saved_with(shard_set.strategy_digest).is_file()
    assert told[0].startswith("adopted shard set 20 (global_step in the files) from 8 files")


def test_what_a_pattern_does_not_name_is_nobodys(run):
    save(run)
    save(run, name="other_rank_0-1_20.ckpt")
    save_strategies(run)
    adopted = adopter(run).look(0, has_ended=True)
    assert [found.shard_set.slices[0].path for found in adopted] == ["rank_0/M_rank_0-1_20.ckpt"]


def test_files_are_whole_where_the_description_says_so_and_only_there(run):
    save_shards(run.checkpoints, tensors(), layouts={}, name="M_rank_0-1_20.ckpt")
    unsaid = adopter(run, strategies=())
    assert unsaid.look(0, has_ended=True) == []
    assert "slices.strategies: which strategy? Give the files" in str(unsaid.nothing_adopted())
    adopted = adopter(run, strategies=(), integrated=True).look(0, has_ended=True)
    assert [found.shard_set.integrated for found in adopted] == [True]


def test_slices_wait_for_the_strategy_that_the_description_expects(run):
    save(run)
    watched = adopter(run)
    assert watched.look(0, has_ended=True) == []
    save_strategies(run)
    assert len(watched.look(1, has_ended=True)) == 1


def test_a_strategy_of_other_ranks_is_said(run):
    save(run)
    (run.path / "strategy").mkdir()
    path = save_strategy(run.path / "strategy" / "s.ckpt")
    watched = adopter(run)
    path.write_bytes(b"\x0a" + path.read_bytes())
    assert watched.look(0, has_ended=True) == []
    assert "is a checkpoint, no strategy file" in str(watched.nothing_adopted())


def test_the_description_says_how_many_steps_an_epoch_has(run):
    save(run, name="M_rank_0-3_5.ckpt", global_step=np.array(0, np.int32))
    save_strategies(run)
    refused = adopter(run)
    assert refused.look(0, has_ended=True) == []
    assert "say how many steps an epoch has (steps_per_epoch)" in str(refused.nothing_adopted())
    assert [found.shard_set.step for found in adopter(run, steps_per_epoch=10).look(0, has_ended=True)] == [25]
