"""At which step another program saved: by its counters, by what is said of epochs, by the names."""

from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import ConfigError, StepMismatch
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.shards.rank_files import UNNUMBERED, Moment
from shardline.checkpoint.shards.step_of_save import step_of


def files(tmp_path: Path, *ranks: dict[str, np.ndarray]) -> list[FileIndex]:
    paths = [tmp_path / f"rank_{rank}.ckpt" for rank in range(len(ranks))]
    for path, arrays in zip(paths, ranks, strict=True):
        write_checkpoint({"w": np.zeros(2, np.float32), **arrays}, path)
    return [index_checkpoint(path) for path in paths]


def counter(value, shape=(1,), dtype=np.int32):
    return np.full(shape, value, dtype)


def test_mindspores_counter_says_the_step(tmp_path):
    found = step_of(files(tmp_path, {"global_step": counter(30)}), Moment(2, 10))
    assert (found.step, found.epoch, found.known_by) == (30, 2, "global_step in the files")


def test_mindformers_own_number_comes_first(tmp_path):
    saved = {"global_step": counter(28), "step_num": counter(30, ())}
    assert step_of(files(tmp_path, saved), Moment(2, 10)).step == 30


@pytest.mark.parametrize("stands_still", [counter(0), counter(5), counter(30.0, dtype=np.float32), counter(30, (2,))])
def test_a_counter_that_cannot_be_one_does_not_count(tmp_path, stands_still):
    """An optimizer of a constant learning rate leaves it at 0, or at what a checkpoint before had."""
    saved = files(tmp_path, {"global_step": stands_still})
    assert step_of(saved, Moment(2, 10), steps_per_epoch=20) == (30, 2, "20 steps an epoch")
    with pytest.raises(ConfigError, match=r"step 10 of epoch 2.*say how many steps an epoch has"):
        step_of(saved, Moment(2, 10))


def test_within_the_first_epoch_the_name_says_it(tmp_path):
    assert step_of(files(tmp_path, {}), Moment(1, 10)) == (10, 1, "the files' names")


def test_a_name_that_says_nothing_needs_a_counter(tmp_path):
    assert step_of(files(tmp_path, {"global_step": counter(7)}), UNNUMBERED).step == 7
    with pytest.raises(ConfigError, match="nothing says at which step"):
        step_of(files(tmp_path, {}), UNNUMBERED)


def test_ranks_whose_counters_differ_are_named(tmp_path):
    saved = files(tmp_path, {"global_step": counter(20)}, {"global_step": counter(10)})
    with pytest.raises(StepMismatch, match=r"rank_0.ckpt \(rank 0\) was saved at global_step 20, .*rank_1.* at 10"):
        step_of(saved, UNNUMBERED)


def test_ranks_without_the_counter_follow_the_others(tmp_path):
    assert step_of(files(tmp_path, {}, {"global_step": counter(20)}), UNNUMBERED).step == 20
