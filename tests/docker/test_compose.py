"""docker/compose.yaml for real: CeleryExecutor on PostgreSQL and Redis, three workers, and what happens as they die.

`make celery` runs it; the containers alone are missing.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardline.run.directory import Home, RunDirectory
from tests.airflow.conftest import digits, small  # noqa: F401  fixtures
from tests.airflow.rest import FINISHED, Api
from tests.docker.composed import SECRETS, Composed, running

DAG = "sharded_training"
WORKERS = ("worker-cpu", "worker-cpu.2", "worker-device")
MERGE = ("merge.plan", "merge.write", "merge.commit")

pytestmark = [pytest.mark.celery, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory, digits) -> Iterator[Composed]:  # noqa: F811
    """All services, and a second container of `worker-cpu`; merges are made in two parts."""
    settings = {"SHARDLINE_MERGE_WORKERS": "2", "SHARDLINE_ALLOWED_ROOTS": str(digits)}
    with running(tmp_path_factory.mktemp("composed"), WORKERS, **settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def api(stack) -> Api:
    client = Api(stack.address, "admin", SECRETS["AIRFLOW_PASSWORD"])
    client.wait_for_dags({DAG})
    client.patch(f"/dags/{DAG}", is_paused=False)
    return client


def wait_until(condition: Callable[[], Any]) -> None:
    while not condition():
        time.sleep(0.01)


def instances(api: Api, run_id: str) -> list[dict[str, Any]]:
    return api.get(f"/dags/{DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]


def ended(api: Api, stack: Composed, run_id: str) -> str:
    """The run's state when it has ended; what dies meanwhile is started again, as Docker would."""
    while (state := api.get(f"/dags/{DAG}/dagRuns/{run_id}")["state"]) not in FINISHED:
        stack.revive()
        time.sleep(0.5)
    return state


def most_tries(api: Api, run_id: str, task_id: str) -> int:
    """How often the task was tried; of parts, the one that was tried most."""
    return max(instance["try_number"] for instance in instances(api, run_id) if instance["task_id"] == task_id)


def merged(api: Api, run_id: str) -> bytes:
    return Path(api.xcom(DAG, run_id, "merge.commit")["merged_file"]).read_bytes()


@pytest.fixture(scope="module")
def parameters(small) -> dict[str, Any]:  # noqa: F811
    """A training of 300 steps on four ranks, some ten seconds, with a shard set every five steps."""
    return small | {"world_size": 4, "epochs": 15}


@pytest.fixture(scope="module")
def undisturbed(stack, api, parameters) -> str:
    """The id of a run that nothing happened to."""
    run_id = api.trigger(DAG, parameters)
    assert ended(api, stack, run_id) == "success"
    return run_id


def test_init_changes_nothing_the_second_time(stack, api):
    stack.start("init")
    pools = {pool["name"]: pool["slots"] for pool in api.get("/pools")["pools"]}
    assert pools["device"] == 8


def test_cards_are_for_the_worker_of_the_queue_device_alone(api, undisturbed):
    places: dict[str, set[tuple[str, str]]] = {}
    for instance in instances(api, undisturbed):
        if instance["state"] == "success":
            places.setdefault(instance["task_id"], set()).add(
                (instance["queue"], instance["hostname"].partition(".")[0])
            )
    assert places.keys() == {"prepare_dataset", "train", "validate", "promote", *MERGE}
    assert places.pop("train") == places.pop("validate") == {("device", "worker-device")}
    assert set.union(*places.values()) == {("cpu", "worker-cpu")}


def test_a_device_worker_killed_in_the_middle_of_training(stack, api, parameters, undisturbed):
    """The next try goes on from the newest shard set, and ends with the very model of the run that nobody disturbed."""
    run_id = api.trigger(DAG, parameters)
    directory = RunDirectory(Home(stack.home).run(DAG, run_id))
    wait_until(lambda: list(directory.checkpoints.glob("shard_set-*.json")))
    ranks = stack.processes_with("tasks.train")
    assert len(ranks) >= 4
    stack.kill("worker-device")
    psutil.wait_procs(ranks)
    stack.start("worker-device")
    assert ended(api, stack, run_id) == "success"
    assert api.tries(DAG, run_id)["train"] == 2
    assert "resumed from shard set" in directory.rank_log(0).read_text()
    assert merged(api, run_id) == merged(api, undisturbed)


@pytest.mark.parametrize("step", ["plan", "write", "commit"])
def test_a_cpu_worker_killed_in_the_middle_of_a_merge(stack, api, undisturbed, step):
    """Clearing the group merges again; whatever step was killed is tried again, and the bytes are the same."""
    before, tried = merged(api, undisturbed), most_tries(api, undisturbed, f"merge.{step}")
    Path(api.xcom(DAG, undisturbed, "merge.commit")["merged_file"]).unlink()
    body = {"dag_run_id": undisturbed, "task_ids": list(MERGE), "only_failed": False, "dry_run": False}
    api.post(f"/dags/{DAG}/clearTaskInstances", body).raise_for_status()
    wait_until(lambda: stack.processes_with(f"tasks.merge_parts {step}"))
    killed = stack.processes_with("tasks.merge_parts")
    hit = {stack.worker_of(process) for process in killed} - {""}
    assert hit
    for name in hit:
        stack.kill(name)
    psutil.wait_procs(killed)
    for name in hit:
        stack.start(name)
    assert ended(api, stack, undisturbed) == "success"
    assert most_tries(api, undisturbed, f"merge.{step}") > tried + 1  # one for clearing, one for the kill
    assert merged(api, undisturbed) == before
    assert not stack.processes_with("tasks.merge_parts")


def test_scheduler_killed_and_database_restarted_during_a_training(stack, api, parameters, undisturbed):
    """The training notices neither: Airflow's processes come back, and the run ends at its first try."""
    run_id = api.trigger(DAG, parameters)
    directory = RunDirectory(Home(stack.home).run(DAG, run_id))
    wait_until(directory.metrics_file.exists)
    stack.kill("scheduler")
    stack.restart_database()
    stack.start("scheduler")
    stack.wait_until_healthy()
    assert ended(api, stack, run_id) == "success"
    assert api.tries(DAG, run_id)["train"] == 1
    assert merged(api, run_id) == merged(api, undisturbed)
