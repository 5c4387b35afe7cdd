import json
import shutil

import numpy as np
import pytest

from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.cli.adopt_command import main
from tests.shardline.checkpoint.mindformers import FIXTURES
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors


@pytest.fixture
def shards(tmp_path):
    save_shards(tmp_path / "shards", tensors(), name="CKP-1_20.ckpt")
    return tmp_path / "shards"


@pytest.fixture
def strategy(tmp_path):
    return ["--strategy", str(save_strategy(tmp_path / "strategy.ckpt"))]


def test_every_complete_save_is_adopted_and_named(shards, strategy, capsys):
    save_shards(shards, tensors() | {"global_step": np.array(30, np.int32)}, name="CKP-1_30.ckpt")
    assert main([str(shards), *strategy]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["adopted"] == [20, 30]
    assert "adopted shard set 30 (global_step in the files) from 8 files, rank_0/CKP-1_30.ckpt" in printed.err
    assert ShardSet.steps(shards) == [20, 30]


def test_only_the_step_that_is_meant_is_adopted(shards, strategy, capsys):
    save_shards(shards, tensors() | {"global_step": np.array(30, np.int32)}, name="CKP-1_30.ckpt")
    assert main([str(shards), *strategy, "--step", "1_20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "adopted": [20],
        "manifests": [str(shards / "shard_set-20.json")],
        "steps": [20],
    }


def test_a_second_time_there_is_nothing_to_do(shards, strategy, capsys):
    assert main([str(shards), *strategy]) == 0
    capsys.readouterr()
    assert main([str(shards), *strategy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"adopted": [], "manifests": [], "steps": [20]}


def test_files_that_may_still_change_are_looked_at_twice(shards, strategy, capsys):
    assert main([str(shards), *strategy, "--settled-after", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adopted"] == [20]


def test_checkpoint_2_needs_no_strategy(tmp_path, strategy, capsys):
    folder = tmp_path / "checkpoint"
    shutil.copytree(FIXTURES / "balanced", folder)
    assert main([str(folder), *strategy]) == 2
    assert "leave --strategy out" in capsys.readouterr().err
    assert main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adopted"] == [7]
    assert main([str(folder / "iteration_00000007")]) == 2
    assert "give the folder above it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which strategy? Give --strategy FILE, or --integrated"),
        (["--step", "7", "--integrated"], "have no checkpoint of step 7"),
        (["--prefix", "none", "--integrated"], "no file has the prefix 'none'"),
    ],
)
def test_what_is_wrong_ends_with_one_message(shards, arguments, message, capsys):
    assert main([str(shards), *arguments]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_folder_that_is_none_is_said(tmp_path, strategy, capsys):
    assert main([str(tmp_path / "none"), *strategy]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), *strategy]) == 1
    assert "expected folders rank_0, rank_1, …, found none: it is empty" in capsys.readouterr().err


def test_a_step_within_a_later_epoch_needs_the_steps_of_an_epoch(tmp_path, capsys):
    for rank in range(2):
        (tmp_path / f"rank_{rank}").mkdir()
        write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / f"rank_{rank}" / "CKP-3_5.ckpt")
    assert main([str(tmp_path), "--integrated"]) != 0
    assert "say how many steps an epoch has" in capsys.readouterr().err
    assert main([str(tmp_path), "--integrated", "--steps-per-epoch", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adopted"] == [25]
