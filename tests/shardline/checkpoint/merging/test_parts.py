import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import ConfigError, CorruptShard, MissingShard, OutputError, ReplicaMismatch
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.parts import Part, commit_parts, parts_folder, plan_parts, write_part
from shardline.checkpoint.merging.request import MergeRequest, prepare
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors

PROJECT = Path(__file__).parents[4]


@pytest.fixture
def request_(tmp_path):
    save_shards(tmp_path / "shards", tensors())
    strategy = save_strategy(tmp_path / "strategy.ckpt")
    return MergeRequest(tmp_path / "shards", (strategy,), tmp_path / "out" / "model.ckpt")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def in_one_process(request: MergeRequest) -> dict[str, bytes]:
    whole = MergeRequest(**{**vars(request), "output": request.output.parent.with_name("whole") / request.output.name})
    merge(whole)
    return contents(whole.output.parent)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_parts_in_any_order_give_the_bytes_of_one_process(request_, count, name):
    request = MergeRequest(**{**vars(request_), "output": request_.output.with_name(name)})
    plan_parts(request)
    for number in random.Random(count).sample(range(1, count + 1), count):
        write_part(request.output, Part(number, count))
    commit_parts(request.output)
    assert contents(request.output.parent) == in_one_process(request)


@pytest.mark.parametrize("options", [{"max_file_size": 500}, {"crc": True}])
def test_several_files_and_checksums_come_out_the_same(request_, options):
    name = "model.ckpt" if "crc" in options else "model.safetensors"
    request = MergeRequest(**{**vars(request_), **options, "output": request_.output.with_name(name)})
    plan_parts(request)
    for number in (2, 1):
        write_part(request.output, Part(number, 2))
    commit_parts(request.output)
    assert contents(request.output.parent) == in_one_process(request)


def test_a_part_can_be_written_twice_and_at_the_same_time(request_):
    plan_parts(request_)
    command = [sys.executable, "-m", "tasks.merge_parts", "write", "--output", str(request_.output), "--part"]
    processes = [subprocess.Popen([*command, part], cwd=PROJECT) for part in ("1/2", "2/2", "1/2", "2/2")]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    commit_parts(request_.output)
    assert contents(request_.output.parent) == in_one_process(request_)


def test_the_parts_divide_the_bytes_about_equally(request_):
    planned = prepare(request_).plan.tensors
    parts = [Part(number, 3).tensors_of(planned) for number in (1, 2, 3)]
    assert [tensor for part in parts for tensor in part] == list(planned)


def test_commit_refuses_while_parts_are_missing(request_):
    merge(request_)
    before = request_.output.read_bytes()
    plan_parts(request_)
    write_part(request_.output, Part(2, 3))
    with pytest.raises(OutputError, match=r"tensors are not proved .* done are \['part-2-of-3.json'\]"):
        commit_parts(request_.output)
    assert request_.output.read_bytes() == before


def test_an_equal_plan_keeps_the_parts_that_are_done(request_):
    plan_parts(request_)
    write_part(request_.output, Part(1, 2))
    plan_parts(request_)
    write_part(request_.output, Part(2, 2))
    commit_parts(request_.output)


def test_a_plan_whose_files_are_gone_is_made_again(request_):
    plan_parts(request_)
    (parts_folder(request_.output) / "model.ckpt").unlink()
    plan_parts(request_)
    write_part(request_.output, Part(1, 1))
    commit_parts(request_.output)


def test_another_plan_discards_the_parts_of_the_old_one(request_):
    plan_parts(request_)
    write_part(request_.output, Part(1, 1))
    plan_parts(MergeRequest(**{**vars(request_), "crc": True}))
    with pytest.raises(OutputError, match="done are no parts"):
        commit_parts(request_.output)


def test_inputs_that_changed_after_planning_are_refused(request_):
    plan_parts(request_)
    save_shards(request_.shards, {**tensors(), "more": np.zeros(3, np.float32)})
    with pytest.raises(CorruptShard, match="not those that were planned; plan again"):
        write_part(request_.output, Part(1, 1))


def test_slices_replaced_by_others_of_the_same_shapes_are_refused(request_):
    """Or one part would be of the old ones and another of the new."""
    plan_parts(request_)
    write_part(request_.output, Part(1, 2))
    save_shards(request_.shards, tensors(1))
    for step in (lambda: write_part(request_.output, Part(2, 2)), lambda: commit_parts(request_.output)):
        with pytest.raises(CorruptShard, match="not those that were planned; plan again"):
            step()


def test_replicas_that_differ_are_refused_by_the_part_that_has_them(request_):
    file = request_.shards / "rank_5" / "checkpoint-1_20.ckpt"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    plan_parts(request_)
    with pytest.raises(ReplicaMismatch, match="rank 5"):
        write_part(request_.output, Part(1, 2))
    write_part(request_.output, Part(2, 2))
    with pytest.raises(OutputError, match="not proved"):
        commit_parts(request_.output)


def test_the_folder_can_be_moved_between_steps(request_, tmp_path):
    plan_parts(request_)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    try:
        write_part(moved / "out" / "model.ckpt", Part(1, 1))
        commit_parts(moved / "out" / "model.ckpt")
        found = read_checkpoint(moved / "out" / "model.ckpt")
        assert np.array_equal(found["layer1.weight"], tensors()["layer1.weight"])
    finally:
        shutil.move(moved, tmp_path)


def test_without_a_plan_there_is_nothing_to_write(request_):
    with pytest.raises(MissingShard, match="run the plan step first"):
        write_part(request_.output, Part(1, 1))


def test_a_part_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="part 3/2"):
        Part(3, 2)


def test_processes_that_are_killed_can_be_run_again(request_):
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "tasks.merge_parts", *arguments]

    output = ["--output", str(request_.output)]
    plan = ["plan", "--shards", str(request_.shards), "--strategy", str(request_.strategies[0]), *output]
    subprocess.run(command(*plan), cwd=PROJECT, check=True, capture_output=True)
    killed = subprocess.Popen(command("write", *output, "--part", "1/2"), cwd=PROJECT, stderr=subprocess.DEVNULL)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    refused = subprocess.run(command("commit", *output), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("OutputError: ")
    for part in ("2/2", "1/2"):
        subprocess.run(command("write", *output, "--part", part), cwd=PROJECT, check=True, capture_output=True)
    done = subprocess.run(command("commit", *output), cwd=PROJECT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["merged_file"] == str(request_.output)
    assert not parts_folder(request_.output).exists()
    assert contents(request_.output.parent) == in_one_process(request_)
