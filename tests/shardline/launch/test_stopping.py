"""Whatever is stopped or killed above the ranks, none of them is left."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from shardline.base.exit_codes import STOPPED
from shardline.launch.processes import MARKER
from shardline.launch.records import rank_folder
from shardline.settings.run_config import RunConfig
from tests.patience import PATIENCE_S

from .conftest import wait_until

KILLS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGHUP": signal.SIGHUP}


@pytest.mark.parametrize("number", KILLS.values(), ids=KILLS.keys())
def test_a_signal_stops_the_ranks(start, number):
    launch = start("sleep 600")
    launch.wait_for_ranks()
    launch.process.send_signal(number)
    ended = launch.wait()
    assert ended.exit_code == 1
    assert (
        f"LaunchError: stopped by signal {int(number)} ({number.name}): the ranks were stopped and have not saved; "
        "the next try starts anew; their logs are in "
    ) in ended.stderr
    assert not launch.alive()


def trains(launch) -> None:
    """Until all ranks have learnt what to do when they are told to stop."""
    logs = [launch.directory.rank_log(rank) for rank in range(4)]
    wait_until(lambda: all(log.exists() and "trains" in log.read_text() for log in logs), "all ranks train")


SAVED = "the ranks saved shard set 120 and left; the next try goes on from it; their logs are in "


def test_ranks_that_are_told_to_stop_save_before_they_leave(each_mpirun, start):
    launch = start("save 1.5")  # longer than mpirun gives its ranks after a SIGTERM of its own
    trains(launch)
    launch.process.terminate()
    ended = launch.wait()
    assert ended.exit_code == STOPPED
    assert f"Stopped: stopped by signal 15 (SIGTERM): {SAVED}" in ended.stderr
    assert not launch.alive()


def test_ranks_save_when_the_parent_has_been_killed_and_nobody_reads_what_they_say(start, directory):
    """Airflow 3 kills a task's runner 5 seconds after it has asked it to stop."""
    launch = start("save 1.5", through="import subprocess, sys; subprocess.run(sys.argv[1:])")
    trains(launch)
    launch.process.kill()
    launch.process.stdout.close()
    launch.process.stderr.close()
    launch.wait_until_nothing_is_left()
    assert (directory.checkpoints / "shard_set-120.json").exists()
    assert all(rank_folder(directory.logs, rank).has_stopped() for rank in range(4))


def test_the_next_try_waits_until_a_try_that_saves_has_left(start, directory):
    directory.write_config(RunConfig(world_size=4, termination_grace=PATIENCE_S))
    first = start("save released")
    trains(first)
    first.process.terminate()
    wait_until(lambda: "leaves before" in (directory.path / ".lock").read_text(), "the first says that it leaves")
    second = start()
    told = second.process.stderr.readline().decode()
    assert told == f"waiting for the try before: process {first.process.pid} saves and leaves\n"
    (directory.path / "released").touch()
    ended = second.wait()
    assert ended.exit_code == 0, ended.stderr
    assert first.wait().exit_code == STOPPED


def test_ranks_that_somebody_else_tells_to_stop_end_the_launch_without_a_culprit(start):
    launch = start("save 0")
    trains(launch)
    for rank in range(4):
        psutil.Process(launch.pid_of_rank(rank)).terminate()
    assert f"Stopped: the ranks were told to stop: {SAVED}" in launch.wait().stderr


def test_ranks_that_save_for_longer_than_the_grace_are_killed(start, directory):
    directory.write_config(RunConfig(world_size=4, termination_grace=1))
    launch = start("save 600")
    trains(launch)
    launch.process.terminate()
    assert "the ranks were stopped and have not saved" in launch.wait().stderr
    assert not launch.alive()


def test_a_signal_stops_ranks_that_ignore_it(start, directory):
    directory.write_config(RunConfig(world_size=4, termination_grace=2))
    launch = start("sleep 600", SCENARIO_IGNORES_SIGTERM="1")
    launch.wait_for_ranks()
    launch.process.terminate()
    assert "stopped by signal 15" in launch.wait().stderr
    assert not launch.alive()


def test_the_death_of_the_supervisor_ends_the_ranks(each_mpirun, start):
    launch = start("sleep 600", SCENARIO_IGNORES_SIGTERM="1")
    launch.wait_for_ranks()
    launch.process.kill()
    launch.wait_until_nothing_is_left()


def test_the_death_of_mpirun_ends_the_ranks_and_is_named(each_mpirun, start):
    launch = start("sleep 600", SCENARIO_IGNORES_SIGTERM="1")
    launch.wait_for_ranks()
    psutil.Process(launch.pid_of_mpirun()).kill()
    ended = launch.wait()
    assert ended.exit_code == 1
    assert "LaunchError: mpirun was ended by signal 9 (SIGKILL), and ranks 0-3 didn't finish." in ended.stderr
    assert not launch.alive()


def test_a_killed_mpirun_leaves_nothing_of_its_session(each_mpirun, start, tmp_path):
    """A later mpirun that gets the same process id would fail over it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    launch = start("sleep 600", TMPDIR=str(folder))
    launch.wait_for_ranks()
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["mpirun"]
    psutil.Process(launch.pid_of_mpirun()).kill()
    launch.wait()
    assert not list(folder.iterdir())


def test_what_a_killed_launch_leaves_of_its_session_is_removed_by_the_next_try(start, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    launch = start("sleep 600", TMPDIR=str(folder))
    launch.wait_for_ranks()
    launch.process.kill()
    launch.wait_until_nothing_is_left()
    assert len(list(folder.iterdir())) == 1
    assert start(TMPDIR=str(folder)).wait().exit_code == 0
    assert not list(folder.iterdir())


def test_a_stopped_mpirun_does_not_keep_a_failed_run_alive(start):
    launch = start("sleep 600")
    launch.wait_for_ranks()
    psutil.Process(launch.pid_of_mpirun()).suspend()
    psutil.Process(launch.pid_of_rank(1)).kill()
    ended = launch.wait()
    assert "LaunchError: rank 1 on " in ended.stderr
    assert not launch.alive()


def test_the_death_of_the_parent_ends_the_launch(start):
    """The parent is Airflow's task runner, and SIGKILL is what the kernel sends it when memory runs out."""
    launch = start("sleep 600", through="import subprocess, sys; subprocess.run(sys.argv[1:])")
    launch.wait_for_ranks()
    (supervisor,) = psutil.Process(launch.process.pid).children()
    launch.process.kill()
    wait_until(lambda: not supervisor.is_running() or supervisor.status() == psutil.STATUS_ZOMBIE, "the launch ends")
    launch.wait_until_nothing_is_left()
    assert b"the process that started this launch has ended" in launch.process.stderr.read()


def test_a_launch_whose_output_nobody_reads_ends(start):
    launch = start("sleep 600", ranks="1", through="import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))")
    launch.wait_for_ranks()
    launch.process.stdout.close()
    with launch.directory.rank_log(0).open("a") as log:
        log.write("one more line\n")
    assert b"LaunchError: nobody reads the output of this launch any more" in launch.process.stderr.read()
    assert launch.process.wait(PATIENCE_S) != 0
    assert not launch.alive()


def test_what_an_earlier_try_left_running_is_ended_first(start, directory):
    def leave(run_directory: str) -> subprocess.Popen[bytes]:
        stubborn = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", stubborn],
            env=os.environ | {MARKER: run_directory},
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        return process

    left, other = leave(str(directory.path)), leave(f"{directory.path}-2")
    try:
        ended = start().wait()
        assert ended.exit_code == 0
        assert f"launch: ended 1 process that an earlier try of {directory.path} had left running" in ended.stderr
        assert left.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.communicate()
