import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.errors import CorruptShard, MissingShard, UnsupportedFormat
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.strategy.layout import Layout
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
    assert "step 20" in render(describe(files / "out" / "model.safetensors.merge.json"))


def test_what_is_nothing_of_ours_is_refused(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"\xffnothing")
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(CorruptShard):
        describe(tmp_path / "x.ckpt")
    with pytest.raises(UnsupportedFormat):
        describe(tmp_path / "x.json")
    with pytest.raises(MissingShard):
        describe(tmp_path / "y.ckpt")


@pytest.mark.parametrize("content", [b"{}", b"[]", b"[" * 100_000, b'{"a": 1, "a": 2}', b"\xff", b'{"last_epoch": 1}'])
def test_json_of_another_kind_is_one_clear_error(tmp_path, content):
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(UnsupportedFormat, match="expected a strategy, a manifest, a record or an index"):
        describe(tmp_path / "meta.json")


def test_a_folder_of_slices_shows_trainings_steps_ranks_and_what_is_taken(tmp_path):
    for name, ranks in (("a-1_1.ckpt", 4), ("a-1_2.ckpt", 4), ("a-1_3.ckpt", 2)):
        save_shards(tmp_path, tensors(), name=name, world_size=ranks)
    (tmp_path / "rank_0.bak").mkdir()
    (tmp_path / "rank_1" / "meta.json").write_text("{}")
    described = describe(tmp_path)
    assert described["kind"] == "slices"
    assert [(save["step"], save["ranks"], save["complete"]) for save in described["saves"]] == [
        ("1_1", [0, 1, 2, 3], True),
        ("1_2", [0, 1, 2, 3], True),
        ("1_3", [0, 1], False),
    ]
    assert described["taken"] == [f"rank_{rank}/a-1_2.ckpt" for rank in range(4)]
    assert described["left_alone"] == ["rank_0.bak", "rank_1/meta.json"]
    text = render(described)
    assert "a       ckpt    1_3   0, 1" in text
    assert "a merge takes rank_0/a-1_2.ckpt to rank_3/a-1_2.ckpt" in text
    assert "note: taking a-1_2.ckpt, the newest that all ranks have; a-1_3.ckpt is on ranks [0, 1] only" in text


def test_a_folder_of_two_trainings_shows_the_options_that_choose(tmp_path):
    for name in ("a-1_1.ckpt", "b-1_1.safetensors"):
        save_shards(tmp_path, tensors(), name=name, world_size=2)
    described = describe(tmp_path)
    assert described["taken"] == []
    assert "--prefix a " in described["refused"]
    assert "a merge takes none of them without more options" in render(described)


def test_manifests_are_shown(files):
    described = describe(files / "shards")
    assert described["manifests"] == [20]
    assert described["step"] == "20"
    assert "manifests of steps 20" in render(described)


def test_a_model_in_several_files_is_shown_as_one(files):
    output = files / "several" / "model.safetensors"
    merge(MergeRequest(files / "shards", (files / "strategy.ckpt",), output, max_file_size=200))
    for path in (output.parent, output.with_name("model.safetensors.index.json")):
        described = describe(path)
        assert {item["name"] for item in described["tensors"]} == set(tensors())
        assert len(described["files"]) > 1
        assert f"in {len(described['files'])} files" in render(described)


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["ckpt_strategy_rank_0.ckpt"], ["pytorch_model.bin"]])
def test_a_folder_that_holds_nothing_of_ours_says_what_it_holds(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises((MissingShard, UnsupportedFormat), match=r"found none|found|strategy files"):
        describe(tmp_path)


def test_names_that_are_no_text_are_printed(tmp_path):
    (tmp_path / "shards").mkdir()
    save_shards(tmp_path / "shards", tensors(), name="a\udcff-1_1.ckpt", world_size=1)
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "tasks.inspect", str(tmp_path / "shards"), *options]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        assert "a\\udcff-1_1.ckpt" in done.stdout


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


def test_a_strategy_that_is_refused_is_not_called_a_damaged_checkpoint(tmp_path):
    strategy = save_strategy(tmp_path / "s.ckpt")
    strategy.write_bytes(strategy.read_bytes() + b"\x20\x01")
    with pytest.raises(UnsupportedFormat, match="ParallelStrategyMap has a field 4"):
        describe(strategy)


def test_fields_and_cuts_by_hand_are_shown(tmp_path):
    layouts = {"a": Layout((2,), ((0,), ()), field=3), "b": Layout((2,), ((0,), ()), param_split_shape=(4, 2))}
    described = describe(save_strategy(tmp_path / "s.ckpt", layouts))
    assert (described["layouts"]["a"]["field"], described["layouts"]["b"]["param_split_shape"]) == (3, [4, 2])
    *_, first, second = render(described).splitlines()
    assert first.split()[-1] == "3"
    assert second.endswith("[4, 2]")
