"""Who failed first, from the messages of both versions of Open MPI and the ranks' records."""

import shutil
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from shardline.base.errors import ConfigError, DatasetError, LaunchError, ShardlineError, TrainingError, kind_of
from shardline.launch import diagnosis
from shardline.launch.diagnosis import Launch
from shardline.launch.records import Failure, Started, rank_folder

RULE = "-" * 74
KILLED_4 = f"""{RULE}
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
{RULE}
{RULE}
mpirun.openmpi noticed that process rank 3 with PID 0 on node vm exited on signal 9 (Killed).
{RULE}
"""
KILLED_5 = f"""{RULE}
prterun noticed that process rank 3 with PID 7425 on node vm exited on
signal 9 (Killed).
{RULE}
"""
EXITED_4 = f"""{RULE}
mpirun.openmpi detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[29118,1],3]
  Exit code:    7
{RULE}
"""
EXITED_5 = f"""{RULE}
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-vm-7408@1,3]
   Exit code:    7
{RULE}
"""


@pytest.mark.parametrize(
    ("output", "ended"),
    [
        (KILLED_4, (3, "vm", 0, 9)),
        (KILLED_5, (3, "vm", 0, 9)),
        (EXITED_4, (3, "", 7, 0)),
        (EXITED_5, (3, "", 7, 0)),
    ],
)
def test_the_rank_that_mpirun_names(output, ended):
    first = diagnosis.first_by_mpirun(output)
    assert (first.rank, first.host, first.exit_code, first.signal_number) == ended


def test_an_mpirun_that_names_none():
    assert diagnosis.first_by_mpirun("There are not enough slots available in the system") is None


@pytest.fixture
def launch(tmp_path):
    """Four ranks that have started; mpirun has said nothing."""
    for rank in range(4):
        folder = rank_folder(tmp_path, rank)
        folder.path.mkdir()
        folder.write_started(Started(rank, 100 + rank, f"host{rank}", 0))
    return Launch(tmp_path, 4, tmp_path / "mpirun", mpirun_exit=1)


def first_line(launch) -> str:
    return str(diagnosis.error(launch)).partition("\n")[0]


def test_the_earliest_failure_counts_not_the_lowest_rank(launch):
    for rank, time in ((0, 30.0), (2, 10.0), (3, 20.0)):
        launch.rank(rank).write_failure(Failure(rank, f"host{rank}", time, 1, "ValueError", f"of rank {rank}"))
    assert first_line(launch) == "rank 2 on host2 raised ValueError: of rank 2."


def silent(rank: int, time: float, signal_number: int = 0, exit_code: int = 0) -> Failure:
    return Failure(rank, f"host{rank}", time, exit_code, signal_number=signal_number, silent=True)


def record(launch, *failures: Failure) -> None:
    for failure in failures:
        launch.rank(failure.rank).write_failure(failure)


@pytest.mark.parametrize(
    ("number", "noticed"), [(signal.SIGKILL, 10.2), (signal.SIGKILL, 12.4), (signal.SIGSEGV, 10.9)]
)
def test_a_rank_that_was_killed_counts_before_those_that_noticed_its_loss_a_little_earlier(launch, number, noticed):
    record(launch, Failure(0, "host0", 10.0, 1, "ConnectionError", "peer lost"), silent(3, noticed, number))
    assert first_line(launch) == f"rank 3 on host3 was ended by signal {number:d} ({number.name})."


@pytest.mark.parametrize(("number", "time"), [(signal.SIGKILL, 13.0), (signal.SIGSEGV, 11.1)])
def test_an_exception_counts_before_those_that_the_launch_killed_or_that_crashed_later(launch, number, time):
    record(launch, Failure(0, "host0", 10.0, 1, "ValueError", "the cause"), silent(3, time, number))
    assert first_line(launch) == "rank 0 on host0 raised ValueError: the cause."


def test_a_crash_is_not_named_for_a_later_kill(launch):
    record(launch, silent(1, 10.0, signal.SIGSEGV), silent(2, 10.1, signal.SIGKILL))
    assert first_line(launch) == "rank 1 on host1 was ended by signal 11 (SIGSEGV)."


def test_ranks_that_were_told_to_go_do_not_count(launch):
    record(launch, silent(0, 10.0, signal.SIGTERM), silent(1, 10.0, signal.SIGTERM), silent(2, 10.3, signal.SIGSEGV))
    assert first_line(launch) == "rank 2 on host2 was ended by signal 11 (SIGSEGV)."


def test_a_rank_that_somebody_told_to_go_counts_where_nothing_else_happened(launch):
    record(launch, silent(2, 10.0, signal.SIGTERM), silent(0, 10.1, signal.SIGTERM))
    assert first_line(launch) == "rank 2 on host2 was ended by signal 15 (SIGTERM)."


def test_a_rank_that_left_past_python_is_named_with_its_exit_code(launch):
    record(launch, silent(1, 10.0, exit_code=3))
    assert first_line(launch) == "rank 1 on host1 left without finishing, with exit code 3."


def test_a_rank_killed_with_its_witness_is_known_from_mpirun(launch):
    launch.mpirun_log.write_text(KILLED_5)
    record(launch, Failure(0, "host0", 1.0, 1, "ConnectionError", "peer lost"))
    assert first_line(launch) == "rank 3 on vm was ended by signal 9 (SIGKILL)."


def test_memory_that_ran_out_is_told_from_a_kill_by_a_person(launch, tmp_path):
    launch.mpirun_log.write_text(KILLED_4)
    assert "look into `dmesg`" in str(diagnosis.error(launch))
    starved = Launch(tmp_path, 4, launch.mpirun_log, 137, out_of_memory=True)
    assert "killed a process for want of memory" in str(diagnosis.error(starved))


def test_a_signal_without_a_name_is_a_number(launch):
    launch.mpirun_log.write_text(KILLED_4.replace("9 (Killed)", "40 (Real-time signal 6)"))
    assert first_line(launch) == "rank 3 on vm was ended by signal 40."


def explained(rank: int, error: ShardlineError, time: float = 1) -> Failure:
    name = type(error).__name__
    return Failure(rank, f"host{rank}", time, error.exit_code, name, str(error), kind_of(error))


def test_ranks_that_say_the_same_are_named_together(launch):
    record(launch, *(explained(rank, TrainingError("no such layer"), time=rank) for rank in (0, 1, 3)))
    record(launch, explained(2, TrainingError("another"), time=9))
    assert first_line(launch) == "ranks 0-1, 3 on host0: no such layer"
    assert isinstance(diagnosis.error(launch), TrainingError)


def errors_of_the_tree(root: type[ShardlineError] = ShardlineError) -> Iterator[type[ShardlineError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield from errors_of_the_tree(child)


@pytest.mark.parametrize("kind", list(errors_of_the_tree()))
def test_what_a_rank_raises_the_launch_raises(launch, kind):
    record(launch, explained(2, kind("layer1 is\nmissing")))
    raised = diagnosis.error(launch)
    assert type(raised) is kind
    assert str(raised) == f"rank 2 on host2: layer1 is\nmissing\nIts log: {launch.rank(2).log}"


class MyTrainingError(TrainingError):
    """A class of the user's own."""


def test_a_class_below_one_of_ours_is_raised_as_ours_and_named_as_its_own(launch):
    record(launch, explained(2, MyTrainingError("no such layer")))
    raised = diagnosis.error(launch)
    assert type(raised) is TrainingError
    assert first_line(launch) == "rank 2 on host2: MyTrainingError: no such layer"


@pytest.mark.parametrize("name", ["ConfigError", "Stopped", "ChampionStays"])
def test_a_class_of_the_users_own_that_is_called_like_one_of_ours_is_none(launch, name):
    record(launch, Failure(1, "host1", 1, 1, name, "something else"))
    assert type(diagnosis.error(launch)) is LaunchError
    assert first_line(launch) == f"rank 1 on host1 raised {name}: something else."


def test_an_error_without_a_message_is_named(launch):
    record(launch, explained(1, TrainingError("")))
    assert type(diagnosis.error(launch)) is TrainingError
    assert first_line(launch) == "rank 1 on host1: TrainingError"


def test_what_was_logged_doesnt_change_the_class_of_an_error_that_was_recorded(launch):
    launch.rank(1).log.write_text("ConfigError: a parameter that an earlier part of the program refused\n")
    record(launch, explained(1, DatasetError("of rank 1")))
    assert type(diagnosis.error(launch)) is DatasetError


def test_a_task_that_reported_its_error_is_quoted_from_the_log(launch):
    launch.rank(1).log.write_text("step 1\nCorruptShard: rank_0/x.ckpt: truncated\nfetch it again\n")
    launch.rank(1).write_failure(Failure(1, "host1", 1, 1))
    assert str(diagnosis.error(launch)).startswith(
        "rank 1 on host1: CorruptShard: rank_0/x.ckpt: truncated\nfetch it again\n"
    )


def test_a_full_disk_that_a_task_reported_is_quoted(launch):
    launch.rank(1).log.write_text("step 1\nOSError: /runs/x: No space left on device\n")
    launch.rank(1).write_failure(Failure(1, "host1", 1, 1))
    assert first_line(launch) == "rank 1 on host1: OSError: /runs/x: No space left on device"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("ConfigError: epochs: too many", ConfigError),
        ("CorruptShard: x.ckpt: no ConfigError: truncated", LaunchError),
        ("ChampionStays: the champion is better", LaunchError),
        ("Stopped: saved", LaunchError),
    ],
)
def test_of_a_program_that_recorded_nothing_only_a_wrong_parameter_keeps_its_class(launch, line, kind):
    launch.rank(1).log.write_text(f"{line}\n")
    record(launch, Failure(1, "host1", 1, 2))
    assert type(diagnosis.error(launch)) is kind
    assert first_line(launch) == f"rank 1 on host1: {line}"


def test_a_full_disk_that_a_task_recorded_is_named(launch):
    record(launch, Failure(1, "host1", 1, 1, "OSError", "[Errno 28] No space left on device: '/runs/x'"))
    assert first_line(launch) == "rank 1 on host1 raised OSError: [Errno 28] No space left on device: '/runs/x'."


def test_an_mpirun_that_starts_nothing_is_quoted(tmp_path):
    (tmp_path / "mpirun").write_text("There are not enough slots available in the system\n")
    launch = Launch(tmp_path, 4, tmp_path / "mpirun", mpirun_exit=1)
    assert str(diagnosis.error(launch)).splitlines() == [
        "mpirun left with exit code 1, and ranks 0-3 didn't finish.",
        f"The last lines of mpirun's log, {tmp_path}/mpirun:",
        "  | There are not enough slots available in the system",
    ]


def test_a_launch_that_could_write_nothing_is_told_that_the_drive_is_full(launch, monkeypatch):
    launch.folder.mkdir(parents=True, exist_ok=True)
    assert "is empty" in str(diagnosis.error(launch))
    assert "make room" not in str(diagnosis.error(launch))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    assert "; 4096 bytes are left on its drive: make room)" in str(diagnosis.error(launch))
