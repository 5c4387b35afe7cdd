"""Ranks that are started without mpirun, and MindSpore's scheduler beside them."""

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.launch.own_processes import msrun_environment
from shardline.launch.rank_number import SCHEDULER
from tests.patience import PATIENCE_S

from .conftest import PROJECT, wait_until

OF_SPECIAL_CASES = {"MS_SIMULATION_LEVEL", "RANK_TABLE_FILE", "MS_ENABLE_RECOVERY"}


def test_the_variables_are_those_that_msrun_sets():
    package = importlib.util.find_spec("mindspore").submodule_search_locations[0]
    source = Path(package, "parallel", "cluster", "process_entity", "_api.py").read_text()
    set_by_msrun = set(re.findall(r"os\.environ\[['\"](\w+)['\"]\] =", source)) - OF_SPECIAL_CASES
    worker, scheduler = msrun_environment("worker", 1, 2, 8118), msrun_environment(SCHEDULER, 0, 2, 8118)
    assert worker.keys() == set_by_msrun
    assert scheduler.keys() == set_by_msrun - {"MS_NODE_ID", "DEVICE_ID"}
    assert (worker["MS_ROLE"], worker["RANK_ID"], scheduler["MS_ROLE"]) == ("MS_WORKER", "1", "MS_SCHED")


@pytest.fixture
def start(tmp_path):
    started = []

    def run(script, ranks=2, scheduler=True, through=("-m", "shardline.launch.own_processes")):
        """Run the shell's `script` as every process; `$SHARDLINE_RANK` is which it is."""
        port = ["--scheduler-port", "8118"] if scheduler else []
        command = [sys.executable, *through, "--ranks", str(ranks), *port]
        process = subprocess.Popen(
            [*command, "sh", "-c", f"cd {tmp_path}; touch started.$SHARDLINE_RANK; {script}"],
            cwd=PROJECT,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def test_all_that_end_well_are_a_success_and_the_scheduler_is_waited_for(start, tmp_path):
    process = start("test $SHARDLINE_RANK = scheduler && sleep 0.3 && touch left; true")
    assert process.wait(PATIENCE_S) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["left", "started.0", "started.1", "started.scheduler"]


def test_one_that_fails_ends_the_others_and_gives_its_exit_code(start):
    process = start("test $SHARDLINE_RANK = 1 && exit 3; exec sleep 3600")
    assert process.wait(PATIENCE_S) == 3


def test_one_that_does_not_hear_is_killed(start):
    process = start("test $SHARDLINE_RANK = 1 && kill -9 $$; trap '' TERM; while :; do sleep 0.1; done")
    assert process.wait(PATIENCE_S) == 128 + signal.SIGKILL


def test_a_scheduler_that_fails_ends_the_job_and_is_named(start):
    process = start("test $SHARDLINE_RANK = scheduler && exit 5; exec sleep 3600")
    assert process.wait(PATIENCE_S) == 5
    assert b"the scheduler left with exit code 5" in process.stderr.read()


def test_ranks_hear_what_they_are_told_and_the_scheduler_does_not(start, tmp_path):
    process = start(
        "trap 'touch told.$SHARDLINE_RANK; exit 0' USR2; touch ready.$SHARDLINE_RANK; while :; do sleep 0.1; done"
    )
    wait_until(lambda: len(list(tmp_path.glob("ready.*"))) == 3, "all are ready")
    process.send_signal(signal.SIGUSR2)
    assert process.wait(PATIENCE_S) == 0
    assert sorted(file.name for file in tmp_path.glob("told.*")) == ["told.0", "told.1"]


WHILE_IT_STARTS = """
import os, signal, sys, time
from pathlib import Path
from shardline.launch import own_processes

start = own_processes._start

def started(program, variables):
    process = start(program, variables)
    if variables[own_processes.OWN] == "1":
        folder = Path(sys.argv[-1].split()[1].rstrip(";"))
        while len(list(folder.glob("ready.*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)
    return process

own_processes._start = started
sys.exit(own_processes.main())
"""


def test_a_rank_that_has_only_just_been_started_hears_what_all_are_told(start, tmp_path):
    process = start(
        "trap 'touch told.$SHARDLINE_RANK; exit 0' USR2; touch ready.$SHARDLINE_RANK; while :; do sleep 0.1; done",
        through=["-c", WHILE_IT_STARTS],
        scheduler=False,
    )
    assert process.wait(PATIENCE_S) == 0
    assert sorted(file.name for file in tmp_path.glob("told.*")) == ["told.0", "told.1"]


def test_who_is_told_to_leave_leaves_nothing(start, tmp_path):
    process = start("exec sleep 3600", scheduler=False)
    wait_until(lambda: len(list(tmp_path.glob("started.*"))) == 2, "both have started")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
