"""Programs of somebody's own, launched for real: plain Python, which knows neither Shardline nor MindSpore."""

import json
import os
import shutil
import signal
import struct
import time
from pathlib import Path

import pytest

from shardline.base.exit_codes import BAD_PARAMETERS
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory
from shardline.settings.training_config import TrainingConfig
from tests.patience import PATIENCE_S

from .conftest import wait_until

LAUNCHERS = ("mpirun", "msrun", "none")


def steps(directory: RunDirectory) -> list[int]:
    return [json.loads(line)["step"] for line in directory.metrics_file.read_text().splitlines()]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_was_chosen_reaches_the_program_as_it_was_typed(describe, start, directory, tmp_path, launcher):
    hostile = f"""x'"; touch {tmp_path}/evil; $(touch {tmp_path}/evil) `id` {{{{ 1 / 0 }}}} {{rank}} : é\n\t\\ && #"""
    told = tmp_path / "told"
    describe(
        "tell", str(told), "{text}", "a{text}b", "{rank}", "{resume_from}",
        launcher=launcher, values={"text": hostile}, environment={"CHOSEN": "{text}"},
        parameters={"text": {"type": "text", "default": "x"}},
    )  # fmt: skip
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == BAD_PARAMETERS, ended.stderr  # nothing was saved
    ranks = [0] if launcher == "none" else [0, 1]
    for rank in ranks:
        given = json.loads(Path(f"{told}.{rank}").read_text())
        assert given["arguments"] == [hostile, f"a{hostile}b", str(rank), ""]
        assert given["environment"]["CHOSEN"] == hostile
        assert given["folder"] == str(directory.path)
    assert not (tmp_path / "evil").exists()


def test_ranks_of_msrun_are_told_what_msrun_tells_them(describe, start, directory, tmp_path):
    """Held against MindSpore 2.10's own msrun, on a worker of two."""
    describe("tell", str(tmp_path / "told"), launcher="msrun")
    start(module="tasks.train").wait()
    for rank in (0, 1):
        environment = json.loads((tmp_path / f"told.{rank}").read_text())["environment"]
        names = ("MS_ROLE", "MS_WORKER_NUM", "MS_NODE_ID", "RANK_ID", "RANK_SIZE", "DEVICE_ID", "MS_SCHED_HOST")
        assert [environment[name] for name in names] == [
            "MS_WORKER",
            "2",
            *[str(rank)] * 2,
            "2",
            str(rank),
            "127.0.0.1",
        ]
    assert (directory.logs / "scheduler" / "started.json").exists()


@pytest.mark.parametrize("launcher", ["mpirun", "msrun"])
def test_the_first_failing_rank_is_named_with_its_last_lines(describe, start, directory, launcher):
    describe("raise", launcher=launcher)
    launch = start(module="tasks.train")
    ended = launch.wait()
    assert ended.exit_code == 1
    assert "rank 1 on " in ended.stderr
    assert "left with exit code 1" in ended.stderr
    assert "  | ValueError: this is the cause" in ended.stderr
    assert steps(directory) == [1]
    assert not launch.alive()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_rank_ends_the_job_and_is_named(describe, start, directory, launcher):
    describe("hang", launcher=launcher)
    launch = start(module="tasks.train")
    victim = 0 if launcher == "none" else 1
    wait_until(lambda: f"rank {victim} waits" in _text(directory.rank_log(victim)), "the rank waits")
    os.kill(launch.pid_of_rank(victim), signal.SIGKILL)
    ended = launch.wait()
    assert ended.exit_code == 1
    assert f"rank {victim} on " in ended.stderr
    assert "was ended by signal 9 (SIGKILL)" in ended.stderr
    assert not launch.alive()


def test_silence_is_a_hang_and_the_last_words_are_told(describe, start, directory):
    describe("hang", hang_timeout=5)  # a busy machine needs some seconds until both have said their first words
    launch = start(module="tasks.train")
    ended = launch.wait()
    assert ended.exit_code == 1
    assert "has taken no step and printed nothing for longer than hang_timeout" in ended.stderr
    assert "rank 0 printed last: rank 0 waits" in ended.stderr
    assert "the next try starts anew" in ended.stderr
    assert not launch.alive()


def test_a_program_that_never_says_anything_is_given_up_too(describe, start):
    describe("silent", hang_timeout=1, log={})
    ended = start(module="tasks.train").wait()
    assert "ranks 0-1 printed last: (nothing)" in ended.stderr


def test_what_a_program_prints_is_bounded_wherever_it_goes(describe, start, directory):
    describe("print", "30", launcher="none")
    ended = start(module="tasks.train").wait()
    folder = directory.rank_log(0).parent
    assert sum(file.stat().st_size for file in folder.glob("stdout*")) < 1.5 * 2**20
    assert len(ended.stdout) < 2 * 2**20
    assert ended.stdout.rstrip().endswith("the last word")
    assert steps(directory) == [1, 2], "steps are read from what is not kept, too"


def test_children_that_outlive_the_program_are_ended(describe, start, directory):
    describe("leave", launcher="none")
    launch = start(module="tasks.train")
    begun = time.monotonic()
    launch.wait()
    assert time.monotonic() - begun < PATIENCE_S
    assert not launch.alive()
    assert "leaves" in directory.rank_log(0).read_text()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_program_that_is_told_to_stop_gets_its_signal_and_time_to_save(describe, start, directory, launcher):
    describe("stop", launcher=launcher)
    launch = start(module="tasks.train")
    ranks = [0] if launcher == "none" else [0, 1]
    wait_until(lambda: all("trains" in _text(directory.rank_log(rank)) for rank in ranks), "the ranks train")
    launch.process.send_signal(signal.SIGTERM)
    ended = launch.wait()
    assert ended.exit_code == 1
    assert "stopped by signal 15 (SIGTERM): the program was told to stop; the next try starts anew" in ended.stderr
    assert all(_text(directory.rank_log(rank)).endswith("saves\n") for rank in ranks)
    assert not launch.alive()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_program_that_cannot_be_started_is_named(describe, start, launcher):
    describe(launcher=launcher, command=["/no/such/program"])
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == 1
    assert "/no/such/program cannot be started: No such file or directory" in ended.stderr


@pytest.mark.soak
def test_ten_gigabytes_are_bounded_as_well(describe, start, directory):
    describe("print", "10000", launcher="none")
    ended = start(module="tasks.train").wait(3600)
    assert sum(file.stat().st_size for file in directory.rank_log(0).parent.glob("stdout*")) < 1.5 * 2**20
    assert len(ended.stdout) < 2 * 2**20
    assert steps(directory) == [1, 2]


def test_a_program_that_saves_nothing_fails_at_once_and_says_what_was_expected(describe, start, directory):
    describe("print", "0", launcher="none")
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == BAD_PARAMETERS
    assert (
        "left no complete shard set of 2 ranks: expected files like slices/rank_*/*.safetensors, strategy.json below "
        f"{directory.path}, found none"
    ) in ended.stderr


def sets(directory: RunDirectory) -> list[int]:
    return ShardSet.steps(directory.checkpoints)


@pytest.mark.parametrize("launcher", ["mpirun", "msrun"])
def test_what_a_program_saves_is_adopted_and_the_last_set_is_the_result(describe, start, directory, launcher):
    describe("save", launcher=launcher)
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {
        "run_directory": str(directory.path), "step": 3, "epoch": 1, "world_size": 2,
    }  # fmt: skip
    assert sets(directory) == [1, 2, 3]
    assert steps(directory) == [1, 2, 3]
    for number in (1, 2, 3):
        ShardSet.read(ShardSet.path(directory.checkpoints, number)).verify(directory.checkpoints)


def test_a_program_killed_while_it_saves_goes_on_from_the_last_complete_set(describe, start, directory):
    describe("save", "--die", "3", resume={"arguments": ["--resume", "{resume_slice}"]})
    launch = start(module="tasks.train")
    wait_until(lambda: "step 3 is half saved" in _text(directory.rank_log(1)), "rank 1 saves")
    wait_until(lambda: "step: 3" in _text(directory.rank_log(0)), "rank 0, which waits for nobody, has saved as well")
    os.kill(launch.pid_of_rank(1), signal.SIGKILL)
    ended = launch.wait()
    assert ended.exit_code == 1
    assert "rank 1 on " in ended.stderr
    assert sets(directory) == [1, 2]
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == 0, ended.stderr
    assert "goes on from shard set 2" in ended.stderr
    assert (sets(directory), steps(directory)) == ([1, 2, 3], [1, 2, 3])
    told = json.loads((directory.logs / "rank.1" / "program.json").read_text())["command"]
    assert told[-2:] == ["--resume", str(directory.path / "slices/rank_1/x-1_2.safetensors")]


def test_what_an_earlier_try_left_unsaid_is_adopted_before_the_next(describe, start, directory):
    """Its supervisor was killed, before it could look at the end."""
    describe("save", resume={"arguments": ["--resume", "{resume_slice}"]})
    start(module="tasks.train").wait()
    for number in (1, 2, 3):
        ShardSet.path(directory.checkpoints, number).unlink()
    for rank in (0, 1):
        (directory.path / f"slices/rank_{rank}/x-1_3.safetensors").unlink()
    ended = start(module="tasks.train").wait()
    assert "goes on from shard set 2" in ended.stderr
    assert sets(directory) == [1, 2, 3]


def values(directory: RunDirectory, number: int) -> set[float]:
    """What the weight of shard set `number` is made of, its files being those of the manifest."""
    shard_set = ShardSet.read(ShardSet.path(directory.checkpoints, number))
    shard_set.verify(directory.checkpoints)
    content = b"".join((directory.checkpoints / item.path).read_bytes()[-32:] for item in shard_set.slices)
    return set(struct.unpack("<16f", content))


def tries_until(directory: RunDirectory, config: TrainingConfig, step: int) -> None:
    """The next try ends after `step`."""
    training = config.training.model_copy(update={"command": (*config.training.command, "--until", str(step))})
    directory.write_config(config.model_copy(update={"training": training}))


@pytest.mark.parametrize("prefix", ["x", "x_1"])
def test_a_program_that_cannot_go_on_starts_anew_and_what_it_saves_again_counts(describe, start, directory, prefix):
    """Its names are the same ones, or, as MindSpore's `ModelCheckpoint` chooses them, new ones."""
    describe("save")
    start(module="tasks.train").wait()
    assert values(directory, 2) == {2.0}
    ended = start(module="tasks.train", OFFSET="0.5", PREFIX=prefix).wait()
    assert ended.exit_code == 0, ended.stderr
    assert "starts anew, though there is shard set 3: the description has no resume.arguments" in ended.stderr
    assert "step 2 was saved again: what an earlier try saved no longer counts" in ended.stderr
    assert "is not adopted" not in ended.stderr
    assert [values(directory, number) for number in sets(directory)] == [{1.5}, {2.5}, {3.5}]
    assert steps(directory) == [1, 2, 3]


def test_the_result_of_a_program_that_starts_anew_is_its_own_though_an_earlier_try_came_further(
    describe, start, directory
):
    config = describe("save")
    start(module="tasks.train").wait()
    tries_until(directory, config, 2)
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["step"] == 2
    assert "shard_set-3.json is withdrawn: an earlier try saved it" in ended.stderr
    assert (directory.path / "slices/rank_1/x-1_3.safetensors").exists()
    assert sets(directory) == [1, 2]


@pytest.mark.parametrize("by_itself", [False, True])
def test_what_an_earlier_try_saved_is_no_result_unless_the_program_goes_on_by_itself(
    describe, start, directory, by_itself
):
    config = describe("save", resume={"by_itself": by_itself})
    start(module="tasks.train").wait()
    tries_until(directory, config, 0)
    ended = start(module="tasks.train").wait()
    assert sets(directory) == [1, 2, 3]
    if by_itself:
        assert (ended.exit_code, json.loads(ended.stdout.splitlines()[-1])["step"]) == (0, 3)
    else:
        assert ended.exit_code == BAD_PARAMETERS
        assert "shard set 3 was saved by an earlier try" in ended.stderr
        assert "resume.by_itself = true" in ended.stderr


@pytest.mark.parametrize(("left_out", "adopted"), [("3", [1, 2]), ("1", [2, 3])])
def test_a_last_save_of_some_ranks_only_is_never_passed_over(describe, start, directory, left_out, adopted):
    describe("save", "--rank-1-leaves-out", left_out)
    ended = start(module="tasks.train").wait()
    assert sets(directory) == adopted
    if left_out == "1":
        assert ended.exit_code == 0, "an older one is no loss"
        return
    assert ended.exit_code == BAD_PARAMETERS
    assert (
        "what it saved last is newer than shard set 2 and no complete set itself: slices/rank_0/x-1_3.safetensors"
    ) in ended.stderr


def test_saves_that_no_rank_completes_are_named(describe, start, directory):
    describe("save", "--folder", "slices", launcher="none")
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == BAD_PARAMETERS
    assert "left no complete shard set of 2 ranks: " in ended.stderr
    assert "there are folders of 1" in ended.stderr


def test_a_strategy_that_does_not_fit_is_named_with_parameter_and_shapes(describe, start, directory):
    describe("save", "--columns", "3")
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == BAD_PARAMETERS
    assert "left no complete shard set of 2 ranks: " in ended.stderr
    assert "weight" in ended.stderr.splitlines()[-1]


def test_a_program_that_writes_into_another_runs_folder_harms_neither_unsaid(describe, start, directory, tmp_path):
    describe("save")
    start(module="tasks.train").wait()
    other = tmp_path / "other" / "slices"
    shutil.copytree(directory.path / "slices", other)
    (other / "rank_1" / "x-1_3.safetensors").write_bytes(b"of another program")
    shutil.rmtree(directory.path / "slices")
    (directory.path / "src_checkpoints").unlink()
    describe("save", "--folder", str(other))
    ended = start(module="tasks.train").wait()
    assert ended.exit_code == BAD_PARAMETERS
    assert "expected files like slices/rank_*/*.safetensors below" in ended.stderr
    assert "See whether the command saves there ({run_directory})" in ended.stderr


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
