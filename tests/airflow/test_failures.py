"""What goes wrong on a running Airflow: wrong parameters, two runs at once, a killed task runner."""

import re
import time
from pathlib import Path

import psutil
import pytest

from tasks.run_directory import Home, RunDirectory
from tests.airflow.conftest import environment_of

pytestmark = pytest.mark.timeout(600)  # a whole server starts, and whole runs
DAG = "sharded_training"


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"epochs": 0}, "Invalid input for param epochs: 0 is less than the minimum of 1"),
        ({"epochs": "1; reboot"}, "Invalid input for param epochs: '1; reboot' is not of type 'integer'"),
        ({"optimizer": "Adagrad"}, "Invalid input for param optimizer: 'Adagrad' is not one of"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_when_it_is_posted(api, conf, message):
    answer = api.post(f"/dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})
    assert answer.status_code == 400
    assert message in answer.json()["detail"]


def test_an_unknown_parameter_fails_the_first_task_which_says_so(api, small):
    run_id = api.trigger(DAG, small | {"epohcs": 3})
    assert api.wait_for_run(DAG, run_id) == "failed"
    assert api.tries(DAG, run_id) == {"prepare_dataset": 1, "train": 0, "merge": 0, "validate": 0, "promote": 0}
    assert "epohcs: unknown parameter; known are network" in api.log(DAG, run_id, "prepare_dataset")


def launcher_of(run_id: str) -> psutil.Process | None:
    """The process of the task `train` of this run: the parent of mpirun, and the child of the task runner."""
    for process in psutil.process_iter():
        if environment_of(process).get("SHARDLINE_RUN_ID") == run_id and is_launcher(process):
            return process
    return None


def is_launcher(process: psutil.Process) -> bool:
    try:
        return re.search(r"-m tasks\.launch tasks\.train$", " ".join(process.cmdline())) is not None
    except psutil.NoSuchProcess:
        return False


def processes_of_run(run_id: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if environment_of(process).get("SHARDLINE_RUN_ID") == run_id]


def wait_until(condition) -> None:
    """Wait for something that must come; the test's own timeout is the limit."""
    while not condition():
        time.sleep(0.2)


def test_two_runs_at_once_and_one_loses_its_task_runner(api, small, server):
    """The one that is hit resumes in its next try, the other waits for the cards; both end, neither meets the other."""
    long = small | {"world_size": 4, "epochs": 15}
    hit, other = api.trigger(DAG, long | {"seed": 1}), api.trigger(DAG, small | {"seed": 2})
    directory = RunDirectory(Home(server.shared).run(DAG, hit))
    wait_until(lambda: list(directory.checkpoints.glob("shard_set-*.json")))

    launch = processes_of_run(hit)
    launcher_of(hit).parent().kill()
    psutil.wait_procs(launch)
    assert [process for process in launch if process.is_running()] == []

    assert [api.wait_for_run(DAG, run_id) for run_id in (hit, other)] == ["success", "success"]
    assert api.tries(DAG, hit)["train"] == 2
    assert api.tries(DAG, other)["train"] == 1
    first, second = (Path(api.xcom(DAG, run_id, "merge")["merged_file"]) for run_id in (hit, other))
    assert first.parent != second.parent
    assert first.read_bytes() != second.read_bytes()
