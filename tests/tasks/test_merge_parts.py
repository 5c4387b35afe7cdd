"""The merge of a run in parts, as the DAG's mapped tasks do it: real processes on one run directory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardline.checkpoint.merging.parts import parts_folder
from shardline.checkpoint.merging.verify import verify
from shardline.cli.parts_command import main
from shardline.run.directory import RunDirectory
from shardline.run.slices_to_merge import merge_run
from tests.commands import run_here
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors
from tests.tasks.test_merge import PROJECT, save_run, snapshot


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {})
    return directory


@pytest.fixture
def whole(run, tmp_path):
    """What one process makes of an equal run."""
    shutil.copytree(run.path, tmp_path / "whole")
    result = merge_run(RunDirectory(tmp_path / "whole"))
    return result, snapshot(tmp_path / "whole" / "merged")


def start(run: RunDirectory, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tasks.merge_parts", *arguments, "--run-directory", str(run.path)]
    return subprocess.Popen(
        command, cwd=PROJECT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def here(run: RunDirectory, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The task in this process, where nothing is proved by another."""
    return run_here(main, [*arguments, "--run-directory", str(run.path)], os.environ)


def step(run: RunDirectory, *arguments: str) -> dict:
    """What the task returns; it must succeed."""
    finished = here(run, *arguments)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_the_parts_of_a_run_give_what_one_task_gives(run, whole):
    planning = start(run, "plan", "--parts", "3")
    planned = json.loads(planning.communicate()[0].splitlines()[-1])
    assert planned["parts"] == ["1/3", "2/3", "3/3"]
    writers = [start(run, "write", SHARDLINE_PART=part) for part in reversed(planned["parts"])]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    committing = start(run, "commit")
    out, errors = committing.communicate()
    assert committing.returncode == 0, errors
    result = json.loads(out.splitlines()[-1])
    assert snapshot(run.merged) == whole[1]
    assert result | {"run_directory": "", "merged_file": ""} == whole[0] | {"run_directory": "", "merged_file": ""}
    assert verify(Path(result["merged_file"]))


def test_done_again_there_is_nothing_to_write(run):
    merge_run(run)
    before = snapshot(run.merged)
    assert step(run, "plan", "--parts", "4")["parts"] == []
    assert step(run, "commit")["digest"]
    assert snapshot(run.merged) == before
    assert not parts_folder(run.merged / "model.ckpt").exists()


def test_commit_tried_again_after_it_had_published_returns_the_same(run, whole):
    for arguments in (("plan", "--parts", "1"), ("write", "--part", "1/1")):
        step(run, *arguments)
    assert step(run, "commit") == step(run, "commit")
    assert snapshot(run.merged) == whole[1]


def test_commit_killed_between_its_files_is_made_good_by_the_next(run, whole):
    """Its files are renamed one by one, and the record comes last."""
    step(run, "plan", "--parts", "1")
    step(run, "write", "--part", "1/1")
    staged = parts_folder(run.merged / "model.ckpt") / "model.ckpt"
    staged.rename(run.merged / "model.ckpt")
    step(run, "commit")
    assert (run.merged / "model.ckpt").read_bytes() == whole[1]["model.ckpt"]
    assert verify(run.merged / "model.ckpt")


def test_a_part_that_was_killed_is_written_again(run, whole):
    step(run, "plan", "--parts", "2")
    for delay in (0.0, 0.05, 0.1, 0.15):
        writer = start(run, "write", "--part", "1/2")
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    for part in ("2/2", "1/2"):
        step(run, "write", "--part", part)
    step(run, "commit")
    assert snapshot(run.merged) == whole[1]


def test_commit_fails_while_a_part_is_missing_and_names_it(run):
    step(run, "plan", "--parts", "3")
    step(run, "write", "--part", "2/3")
    refused = here(run, "commit")
    assert refused.returncode == 1
    assert "done are ['part-2-of-3.json']" in refused.stderr
    assert not run.merge_file.exists()


def test_slices_trained_anew_between_plan_and_commit_are_what_is_merged(run):
    """Their parts are of no use any more: commit merges what is there now."""
    step(run, "plan", "--parts", "1")
    step(run, "write", "--part", "1/1")
    shutil.rmtree(run.checkpoints)
    save_shards(run.checkpoints, tensors(7))
    save_manifest(run.checkpoints, save_strategy(run.strategy_file(run.read_config())))
    result = step(run, "commit")
    assert merge_run(run)["digest"] == result["digest"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("write", "--part", "4/3"), "part 4/3: expected a part from 1 to 3"),
        (("write", "--part", "first"), "expected a part such as 1/4, found 'first'"),
        (("write",), "expected a part such as 1/4, found None"),
        (("write", "--part", "1/2", "--output", "x.ckpt"), "--output: the run's own parameters say what is merged"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_done(run, arguments, message):
    refused = here(run, *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not run.merged.exists()


def test_a_part_before_its_plan_is_refused(run):
    refused = here(run, "write", "--part", "1/2")
    assert refused.returncode == 1
    assert "run the plan step first" in refused.stderr
