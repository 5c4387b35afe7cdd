"""All ranks of somebody's script commit what ModelCheckpoint saved: MindSpore's own callback, rank by rank."""

import threading
from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.train.callback import CheckpointConfig, ModelCheckpoint

from shardline.base.errors import ConfigError
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import Layout
from shardline.training import CommitShardSet
from tests.shardline.checkpoint.sharding import save_strategy

STEPS_PER_EPOCH = 4


class Rank:
    """One rank of two, with a network of one slice."""

    def __init__(self, folder, strategy, rank: int) -> None:
        self.network = nn.Cell()
        self.network.weight = Parameter(Tensor(np.full((2, 3), rank, np.float32)), name="weight")
        config = CheckpointConfig(save_checkpoint_steps=2, integrated_save=False, keep_checkpoint_max=9)
        self.checkpoints = ModelCheckpoint("CKP", str(folder / f"rank_{rank}"), config)
        self.commits = CommitShardSet(self.checkpoints, strategy, rank, 2)
        self.commits.begin(None)

    def step(self, number: int) -> None:
        epoch = (number - 1) // STEPS_PER_EPOCH + 1
        parameters = SimpleNamespace(
            train_network=self.network, cur_step_num=number, cur_epoch_num=epoch, batch_num=STEPS_PER_EPOCH
        )
        context = SimpleNamespace(original_args=lambda: parameters)
        self.checkpoints._graph_saved = True  # it would compile the network for a drawing
        self.checkpoints.step_end(context)
        self.commits.step_end(context)


@pytest.fixture
def strategy(tmp_path):
    return save_strategy(tmp_path / "strategy.ckpt", {"weight": Layout((2,), ((0,), ()))})


def ranks(tmp_path, strategy) -> list[Rank]:
    return [Rank(tmp_path / "checkpoints", strategy, rank) for rank in (1, 0)]  # rank 0 waits for the others


def test_every_save_becomes_a_set_when_all_ranks_have_saved(tmp_path, strategy, capsys):
    other, first = ranks(tmp_path, strategy)
    for number in range(1, 7):
        thread = threading.Thread(target=first.step, args=(number,))
        thread.start()
        assert number not in ShardSet.steps(tmp_path / "checkpoints")
        other.step(number)
        thread.join()
    folder = tmp_path / "checkpoints"
    assert ShardSet.steps(folder) == [2, 4, 6]
    shard_set = ShardSet.newest(folder)
    shard_set.verify(folder)
    assert (shard_set.epoch, shard_set.slices[1].path) == (2, "rank_1/CKP-2_2.ckpt")
    assert (folder / "provenance" / f"strategy-{shard_set.strategy_digest}").is_file()
    assert "committed shard set 6 (4 steps an epoch) from 2 files" in capsys.readouterr().out
    assert list((folder / ".receipts").glob("*/*")) == []


def test_a_receipt_of_an_earlier_try_is_not_taken(tmp_path, strategy):
    other, _ = ranks(tmp_path, strategy)
    other.step(2)  # and then all are killed
    other, first = ranks(tmp_path, strategy)
    thread = threading.Thread(target=first.step, args=(2,))
    thread.start()
    other.step(2)
    thread.join()
    shard_set = ShardSet.newest(tmp_path / "checkpoints")
    # MindSpore gives a new name where there is an older file, on that rank alone.
    assert [item.path for item in shard_set.slices] == ["rank_0/CKP-1_2.ckpt", "rank_1/CKP_1-1_2.ckpt"]
    shard_set.verify(tmp_path / "checkpoints")


def test_a_program_that_is_started_again_commits_its_steps_again(tmp_path, strategy, capsys):
    folder = tmp_path / "checkpoints"
    for bias in (0, 10):
        other, first = ranks(tmp_path, strategy)
        for rank in (other, first):
            rank.network.weight.set_data(rank.network.weight + bias)
        thread = threading.Thread(target=first.step, args=(2,))
        thread.start()
        other.step(2)
        thread.join()
        ShardSet.newest(folder).verify(folder)
    assert [item.path for item in ShardSet.newest(folder).slices] == ["rank_0/CKP_1-1_2.ckpt", "rank_1/CKP_1-1_2.ckpt"]
    assert "step 2 was saved again: what an earlier try saved no longer counts" in capsys.readouterr().out


def test_one_rank_without_a_strategy_saves_the_whole_model(tmp_path):
    network = nn.Dense(3, 2)
    config = CheckpointConfig(save_checkpoint_steps=1)
    checkpoints = ModelCheckpoint("CKP", str(tmp_path / "rank_0"), config)
    model = mindspore.train.Model(network, nn.MSELoss(), nn.SGD(network.trainable_params(), 0.1))
    generator = [(np.ones(3, np.float32), np.ones(2, np.float32))] * 3
    dataset = mindspore.dataset.GeneratorDataset(generator, ["x", "y"], shuffle=False).batch(1)
    model.train(2, dataset, callbacks=[checkpoints, CommitShardSet(checkpoints)], dataset_sink_mode=False)
    assert ShardSet.newest(tmp_path).integrated
    assert ShardSet.newest(tmp_path).step == 6


def test_asynchronous_saving_is_refused(tmp_path):
    checkpoints = ModelCheckpoint("CKP", str(tmp_path), CheckpointConfig(async_save=True))
    with pytest.raises(ConfigError, match="found async_save"):
        CommitShardSet(checkpoints)
