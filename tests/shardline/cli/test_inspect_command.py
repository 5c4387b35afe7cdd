import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.errors import CorruptShard, MissingShard, UnsupportedFormat
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.cli.inspect_command import describe, render
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors

PROJECT = Path(__file__).parents[3]
STRATEGIES = Path(__file__).parents[2] / "fixtures" / "strategy"


@pytest.fixture
def files(tmp_path):
    strategy = save_strategy(tmp_path / "strategy.ckpt")
    save_shards(tmp_path / "shards", tensors())
    save_manifest(tmp_path / "shards", strategy)
    merge(MergeRequest(tmp_path / "shards", (strategy,), tmp_path / "out" / "model.safetensors"))
    return tmp_path


def test_a_checkpoint_is_a_table_of_tensors(files):
    table = render(describe(files / "shards" / "rank_0" / "checkpoint-1_20.ckpt")).splitlines()
    assert table[0].endswith("checkpoint-1_20.ckpt: checkpoint, 6 tensors, 698 B, ckpt")
    assert table[2].split() == ["tensor", "type", "shape", "size"]
    assert table[4].split() == ["layer1.weight", "Float32", "[12,", "4]", "192", "B"]


def test_both_formats_are_described(files):
    described = describe(files / "out" / "model.safetensors")
    assert described["format"] == "safetensors"
    assert {item["name"] for item in described["tensors"]} == set(tensors())


@pytest.mark.parametrize("name", ["tutorial_sgd.ckpt", "tensor_parallel_sgd.json", "mindformers_8_npus.ckpt"])
def test_a_strategy_is_a_table_of_layouts(name):
    described = describe(STRATEGIES / name)
    assert described["kind"] == "strategy"
    assert len(render(described).splitlines()) == 4 + len(described["layouts"])


def test_a_manifest_and_a_record_are_told_apart(files):
    assert describe(files / "shards" / "shard_set-20.json")["kind"] == "shard set"
    assert "step 20, epoch 1, 8 ranks" in render(describe(files / "shards" / "shard_set-20.json"))
    assert "step 20" in render(describe(files / "out" / "merge.json"))


def test_what_is_nothing_of_ours_is_refused(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"\xffnothing")
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(CorruptShard):
        describe(tmp_path / "x.ckpt")
    with pytest.raises(UnsupportedFormat):
        describe(tmp_path / "x.json")
    with pytest.raises(UnsupportedFormat):
        describe(tmp_path)
    with pytest.raises(MissingShard):
        describe(tmp_path / "y.ckpt")


def test_the_command_prints_json(files):
    command = [sys.executable, "-m", "tasks.inspect", str(files / "strategy.ckpt"), "--json"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["layouts"]["layer3.weight"]["shards"] == [2, 1]


def test_a_reader_that_leaves_early_is_no_error():
    strategy = PROJECT / "tests" / "fixtures" / "strategy" / "mindformers_8_npus.ckpt"
    command = [sys.executable, "-m", "tasks.inspect", str(strategy)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
