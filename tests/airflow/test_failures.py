"""What goes wrong on a running Airflow: wrong parameters, two runs at once, a killed task runner."""

import json
import re
import time
from pathlib import Path

import psutil
import pytest

from shardline.run.directory import Home, RunDirectory
from tests.airflow.conftest import CARDS, end_soon, processes_of_run, suspended_ranks
from tests.patience import wait_until
from tests.processes import environment_of

DAG = "sharded_training"


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1 (found 0)"),
        ({"epochs": "1; reboot"}, "epochs: Input should be a valid integer (found '1; reboot')"),
        ({"optimizer": "Adagrad"}, "optimizer: Input should be 'SGD'"),
        ({"epohcs": 3}, "epohcs: unknown parameter; known are preset"),
        ({"data_source": "directory"}, "data_source 'directory' needs data_directory"),
        ({"world_size": 3}, "needs 4 ranks or a multiple of that, found world_size 3"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_when_they_are_posted(api, conf, message):
    answer = api.post(f"/dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})
    assert answer.status_code == 400
    assert message in answer.json()["detail"]


def test_what_only_the_data_can_tell_fails_the_first_task_and_whoever_wants_is_told(api, small, server):
    run_id = api.trigger(DAG, small | {"batch_size": 1000})
    assert api.wait_for_run(DAG, run_id) == "failed"
    assert api.tries(DAG, run_id)["prepare_dataset"] == 1
    wait_until(lambda: any(run_id in notice["text"] for notice in told(server) if "failed" in notice["title"]))
    notice = next(notice for notice in told(server) if run_id in notice["text"] and "failed" in notice["title"])
    assert notice["title"] == "sharded_training: prepare_dataset failed"
    assert "batch_size: expected at most the 320 training samples, found 1000" in notice["text"]


def told(server) -> list[dict[str, str]]:
    return [json.loads(line) for line in server.notices.read_text().splitlines()] if server.notices.exists() else []


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


def test_two_runs_at_once_and_one_loses_its_task_runner(api, small, server, endless):
    """The one that is hit resumes in its next try, the other waits for its cards; both end, neither meets the other."""
    hit = endless(world_size=CARDS, seed=3)
    directory = RunDirectory(Home(server.shared).run(DAG, hit))
    wait_until(lambda: list(directory.checkpoints.glob("shard_set-*.json")))
    with suspended_ranks(directory, CARDS):  # the run holds its cards, and leaves the cores to the other
        other = api.trigger(DAG, small | {"seed": 2})  # like the seed above: bytes that no other run here promotes
        other_directory = RunDirectory(Home(server.shared).run(DAG, other))
        wait_until(lambda: launcher_of(other))
        while f"waiting for 1 of {CARDS} cards" not in api.log(DAG, other, "train"):
            assert not other_directory.logs.exists()  # no rank has been started
            time.sleep(0.5)
        assert f"{directory.path.name} holds 0, 1, 2, 3" in api.log(DAG, other, "train")
        launch = processes_of_run(hit)
        launcher_of(hit).parent().kill()
    psutil.wait_procs(launch)
    end_soon(directory)  # the next try begins 10 seconds after the runner's end
    assert [process for process in launch if process.is_running()] == []

    assert [api.wait_for_run(DAG, run_id) for run_id in (hit, other)] == ["success", "success"]
    assert api.tries(DAG, hit)["train"] == 2
    assert api.tries(DAG, other)["train"] == 1
    first, second = (Path(api.xcom(DAG, run_id, "merge")["merged_file"]) for run_id in (hit, other))
    assert first.parent != second.parent
    assert first.read_bytes() != second.read_bytes()


def test_a_training_that_is_cleared_while_it_runs_saves_and_goes_on_in_its_next_try(api, server, endless):
    """Airflow gives its own process for the task 5 seconds; the launch has its rank save all the same."""
    run_id = endless(save_checkpoint_steps=1_000_000)
    directory = RunDirectory(Home(server.shared).run(DAG, run_id))
    wait_until(directory.metrics_file.exists)
    body = {"dag_run_id": run_id, "task_ids": ["train"], "only_failed": False, "dry_run": False}
    api.post(f"/dags/{DAG}/clearTaskInstances", body).raise_for_status()
    stopped = directory.path / "log_output" / "earlier" / "1" / "1"
    wait_until(stopped.exists)  # the next try has begun
    wait_until(lambda: directory.rank_log(0).exists() and "resumed from" in directory.rank_log(0).read_text())
    (saved,) = directory.checkpoints.glob("shard_set-*.json")
    assert f"resumed from {saved.stem.replace('-', ' ').replace('_', ' ')}\n" in directory.rank_log(0).read_text()
    assert (stopped / "rank.0" / "stopped.json").exists()
    assert api.tries(DAG, run_id)["train"] == 2
