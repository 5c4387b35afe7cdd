"""A rank fails: the first to fail is named, with what it said, and nothing is left."""

import signal

import psutil
import pytest

from shardline.launch.records import rank_folder

each_mpirun = pytest.mark.usefixtures("each_mpirun")
"""Where it matters how mpirun sees a rank end, and ends the others; what a rank raises, it records itself."""


def failed(launch, kind: str = "LaunchError", code: int = 1) -> str:
    """The message of a launch that fails because of its ranks."""
    ended = launch.wait()
    assert ended.exit_code == code, ended
    assert "Traceback" not in ended.stderr.partition(f"\n{kind}: ")[0]
    assert not launch.alive()
    return ended.stderr.partition(f"\n{kind}: ")[2]


def test_an_exception_is_named_with_the_last_lines_of_its_log(start, directory):
    message = failed(start("raise RuntimeError", ranks="3"))
    assert message.startswith("rank 3 on ")
    first, *rest = message.splitlines()
    assert first.endswith("raised RuntimeError: the network is on fire.")
    assert rest[0] == f"The last lines of rank 3's log, {directory.rank_log(3)}:"
    assert "  | rank 3 acts: raise RuntimeError" in rest
    assert rest[-2] == "  | RuntimeError: the network is on fire"
    assert "try again" in rest[-1]


@pytest.mark.parametrize("scenario", ["raise TrainingError", "task TrainingError"], ids=["raised", "by the task"])
def test_an_explained_error_shows_its_message_without_a_traceback(start, directory, scenario):
    message = failed(start(scenario, ranks="2"), "TrainingError")
    assert message.startswith("rank 2 on ")
    assert ": layer1.weight has 784 rows\nand 3 cards don't divide them\n" in message
    assert message.endswith(f"Its log: {directory.rank_log(2)}\n")
    assert "Traceback" not in message


@each_mpirun
def test_an_error_that_all_ranks_raise_is_named_once(start):
    message = failed(start("raise TrainingError", SCENARIO_LEAVES_LAST="1"), "TrainingError")
    assert message.startswith("ranks 0-3 on ")
    assert message.count("layer1.weight") == 1


def test_an_error_keeps_its_class_and_exit_code_from_the_rank_to_the_task(start):
    for scenario, code, said in (
        ("raise ConfigError", 2, "batch_size: 7 is not a multiple of 2"),
        ("task ConfigError", 2, "batch_size: 7 is not a multiple of 2"),
        ("task ChampionStays", 99, "the champion is better by 0.01"),
        ("task MissingShard", 1, "rank_3: no such folder"),
    ):
        message = failed(start(scenario, ranks="1"), scenario.split()[1], code)
        assert message.startswith("rank 1 on ")
        assert message.partition("\n")[0].endswith(f": {said}")


def test_a_full_disk_that_a_task_of_ours_meets_is_named(start):
    message = failed(start("task OSError", ranks="1"))
    assert message.partition("\n")[0].endswith(" raised OSError: [Errno 28] No space left on device: '/runs/x'.")


@pytest.mark.parametrize(
    ("name", "kind", "code"), [("ConfigError", "ConfigError", 2), ("MissingShard", "LaunchError", 1)]
)
def test_a_program_that_leaves_no_record_is_understood_by_its_last_lines(start, name, kind, code):
    message = failed(start(f"report {name} 3", ranks="1"), kind, code)
    assert message.startswith("rank 1 on ")
    assert f": {name}: " in message.partition("\n")[0]


@each_mpirun
def test_an_exit_code_is_named(start):
    message = failed(start("exit 7", ranks="3"))
    assert message.partition("\n")[0].endswith("left with exit code 7.")
    assert message.startswith("rank 3 on ")


@each_mpirun
def test_a_rank_killed_from_outside_is_named_although_others_complain_too(start, directory):
    launch = start("sleep 600", ranks="3")
    launch.wait_for_ranks()
    psutil.Process(launch.pid_of_rank(3)).kill()
    message = failed(launch)
    assert message.startswith("rank 3 on ")
    assert "was ended by signal 9 (SIGKILL)" in message.partition("\n")[0]
    assert "  | rank 3 acts: sleep 600" in message.splitlines()


@each_mpirun
def test_a_crash_in_native_code_is_named_with_the_python_stack(start):
    message = failed(start("segfault", ranks="3", SCENARIO_OTHERS="sleep 600"))  # nobody complains before its witness
    assert message.startswith("rank 3 on ")
    assert "was ended by signal 11 (SIGSEGV)" in message.partition("\n")[0]
    assert "  | Fatal Python error: Segmentation fault" in message.splitlines()


@each_mpirun
def test_a_rank_that_leaves_without_a_word_is_named(start, directory):
    message = failed(start("sleep 600", SCENARIO_OTHERS="vanish", ranks="0,1,3"))
    assert message.startswith("rank 2 on ")
    assert message.partition("\n")[0].endswith(" left without finishing, with exit code 0.")


@each_mpirun
def test_ranks_that_ignore_sigterm_are_gone_too_and_mpiruns_sigkill_is_nobodys_record(start, directory):
    launch = start("sleep 600", SCENARIO_IGNORES_SIGTERM="1")
    launch.wait_for_ranks()
    psutil.Process(launch.pid_of_rank(2)).send_signal(signal.SIGKILL)
    assert failed(launch).startswith("rank 2 on ")
    assert [rank for rank in range(4) if rank_folder(directory.logs, rank).read_failure()] == [2]


def test_a_module_that_cannot_be_imported_is_named(start, directory, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    message = failed(start(module="broken", PYTHONPATH=str(tmp_path)))
    assert "raised ModuleNotFoundError: No module named 'no_such_package'" in message.partition("\n")[0]
