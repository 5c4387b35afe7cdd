"""What a launch promises when all goes well."""

import json
import os


def test_the_last_line_is_rank_zeros_result_and_every_rank_has_its_log(each_mpirun, start, directory):
    ended = start().wait()
    assert ended.exit_code == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert json.loads(lines[-1]) == {"world_size": 4, "standard_input": ""}
    assert lines[:-1] == ["rank 0 has met the others", "rank 0 acts: finish", "a library says goodbye"]
    for rank in range(4):
        text = (directory.path / "log_output" / "1" / f"rank.{rank}" / "stdout").read_text()
        assert f"rank {rank} has met the others\n" in text


def test_rank_zeros_progress_shows_while_it_runs(start):
    launch = start("sleep 60", ranks="1")
    assert launch.process.stdout.readline() == b"rank 0 has met the others\n"
    assert launch.process.poll() is None


def test_the_logs_of_earlier_tries_stay(start, directory):
    for _ in range(3):
        assert start().wait().exit_code == 0
    earlier = directory.path / "log_output" / "earlier"
    assert sorted(path.name for path in earlier.iterdir()) == ["1", "2"]
    assert "has met" in (earlier / "1" / "1" / "rank.3" / "stdout").read_text()


def test_validation_runs_on_one_rank_and_logs_beside_training(start, directory):
    ended = start(module="tasks.validate").wait()
    assert ended.exit_code == 1  # there is nothing to validate yet
    message = ended.stderr.partition("RunDirectoryError: rank 0 on ")[2]
    assert f": {directory.path}/" in message
    assert sorted(path.name for path in (directory.path / "log_output" / "validate").iterdir()) == ["mpirun", "rank.0"]


def test_long_lines_and_bytes_that_are_not_text_go_through(start, directory):
    ended = start("babble", ranks="0").wait()
    assert ended.exit_code == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "\\xff\\xfe is not UTF-8" in lines
    long_line = next(line for line in lines if line.startswith("xxx"))
    assert long_line == "x" * 65536 + f" … (cut: {300_000 - 65536} more bytes in {directory.rank_log(0)})"


def test_a_launch_inside_a_rank_is_a_launch_of_its_own(each_mpirun, start):
    """As where the whole of Airflow was started by an mpirun or a scheduler built on one."""
    outer = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6", "PMIX_RANK": "5", "PMIX_NAMESPACE": "outer"}
    ended = start(**outer, OMPI_MCA_ess="singleton", PMIX_SERVER_URI41="outer;tcp4://127.0.0.1:1").wait()
    assert json.loads(ended.stdout.splitlines()[-1])["world_size"] == 4


def test_more_ranks_than_cores_are_mentioned(start):
    core = min(os.sched_getaffinity(0))
    through = f"import os, subprocess, sys; os.sched_setaffinity(0, [{core}]); sys.exit(subprocess.call(sys.argv[1:]))"
    ended = start(through=through).wait()
    assert ended.exit_code == 0
    assert "launch: 4 ranks share the 1 core of this host" in ended.stderr


def test_the_end_of_the_thread_that_started_a_launch_does_not_end_it(start):
    through = (
        "import subprocess, sys, threading, time\n"
        "launches = []\n"
        "thread = threading.Thread(target=lambda: (launches.append(subprocess.Popen(sys.argv[1:])), time.sleep(2)))\n"
        "thread.start(); thread.join()\n"
        "sys.exit(launches[0].wait())"
    )
    ended = start("sleep 3", through=through).wait()
    assert ended.exit_code == 0, ended.stderr
