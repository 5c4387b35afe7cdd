"""docker/compose.yaml for real: CeleryExecutor on PostgreSQL and Redis, three workers, and what happens as they die.

`make celery` runs it; the containers alone are missing. Whatever is hit was held in the middle of its work before.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardline.run.directory import Home, RunDirectory
from tests.airflow.conftest import STEPS_PER_EPOCH, digits, small  # noqa: F401  fixtures
from tests.airflow.rest import FINISHED, Api
from tests.campaign.faults import UNDER_CELERY
from tests.campaign_record import record
from tests.docker.composed import SECRETS, Composed, running
from tests.patience import PATIENCE_S, wait_until

DAG = "sharded_training"
WORKERS = ("worker-cpu", "worker-cpu.2", "worker-device")
MERGE = ("merge.plan", "merge.write", "merge.commit")
CARDS = 2
PARTS = 2

pytestmark = [pytest.mark.celery, pytest.mark.timeout(3 * PATIENCE_S)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory, digits) -> Iterator[Composed]:  # noqa: F811
    """All services, and a second container of `worker-cpu`; merges are made in two parts."""
    settings = {
        "SHARDLINE_MERGE_WORKERS": str(PARTS),
        "SHARDLINE_ALLOWED_ROOTS": str(digits),
        "SHARDLINE_DEVICE_SLOTS": str(CARDS),
    }
    with running(tmp_path_factory.mktemp("composed"), WORKERS, **settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def api(stack) -> Api:
    client = Api(stack.address, "admin", SECRETS["AIRFLOW_PASSWORD"])
    client.wait_for_dags({DAG})
    client.patch(f"/dags/{DAG}", is_paused=False)
    return client


@pytest.fixture(scope="module")
def parameters(small) -> dict[str, Any]:  # noqa: F811
    """Three epochs, with a shard set after each."""
    network = {"network": "tests.docker.two_ranks:two_ranks", "world_size": CARDS}
    return small | network | {"epochs": 3, "save_checkpoint_steps": STEPS_PER_EPOCH}


@pytest.fixture(scope="module")
def undisturbed(stack, api, parameters) -> str:
    """The id of a run that nothing happened to."""
    run_id = api.trigger(DAG, parameters)
    assert ended(api, stack, run_id) == "success"
    return run_id


@contextmanager
def recorded(*victims: str) -> Iterator[None]:
    """For the campaign's record: how it ended for those of the table."""
    kinds = [loss.kind for loss in UNDER_CELERY if loss.victim in victims]
    failed = []
    try:
        yield
    except BaseException as error:
        failed.append(f"{type(error).__name__}: {error!s:.500}")
        raise
    finally:
        for kind in kinds:
            record("faults", kind, tries=1, failed=failed, seed=None)


def instances(api: Api, run_id: str) -> list[dict[str, Any]]:
    return api.get(f"/dags/{DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]


def ended(api: Api, stack: Composed, run_id: str) -> str:
    """The run's state when it has ended; what dies meanwhile is started again, as Docker would."""
    while (state := api.get(f"/dags/{DAG}/dagRuns/{run_id}")["state"]) not in FINISHED:
        stack.revive()
        time.sleep(0.5)
    return state


def tries(api: Api, run_id: str) -> dict[str, list[int]]:
    """How often each task was tried; of parts, each part."""
    found: dict[str, list[int]] = {}
    for instance in instances(api, run_id):
        found.setdefault(instance["task_id"], []).append(instance["try_number"])
    return found


def merged(api: Api, run_id: str) -> bytes:
    return Path(api.xcom(DAG, run_id, "merge.commit")["merged_file"]).read_bytes()


def test_init_changes_nothing_the_second_time(stack, api):
    stack.start("init")
    pools = {pool["name"]: pool["slots"] for pool in api.get("/pools")["pools"]}
    assert pools["device"] == CARDS


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


@recorded(*MERGE)
def test_cpu_workers_are_killed_in_the_middle_of_a_merge(stack, api, undisturbed):
    """Clearing the group merges again; whatever was killed is tried again, by whichever worker is there, and nothing
    else is; the bytes are the same."""
    before, tried = merged(api, undisturbed), tries(api, undisturbed)
    Path(api.xcom(DAG, undisturbed, "merge.commit")["merged_file"]).unlink()
    body = {"dag_run_id": undisturbed, "task_ids": list(MERGE), "only_failed": False, "dry_run": False}
    api.post(f"/dags/{DAG}/clearTaskInstances", body).raise_for_status()
    for step, event, path, count in (
        ("plan", "os.rename", r"plan\.json$", 1),
        ("write", "os.rename", r"part-\d-of-2\.json$", PARTS),
        ("commit", "os.rename", r"merged/model\.ckpt$", 1),
    ):
        with stack.holding(f"tasks.merge_parts {step}", event, path, count) as held:
            workers = {stack.worker_of(process) for process in held}
            assert len(workers) == count  # parts are written by as many workers
            hit = stack.worker_of(held[0])
            stack.lose(hit)
            stack.start(hit)
    assert ended(api, stack, undisturbed) == "success"
    expected = {"merge.plan": [2], "merge.write": [1, 2], "merge.commit": [2]}  # one for clearing, one for the kill
    now = tries(api, undisturbed)
    assert {task: sorted(n - tried[task][0] for n in now[task]) for task in MERGE} == expected
    assert merged(api, undisturbed) == before
    assert not stack.processes_with("tasks.merge_parts")


@recorded("process group")
def test_a_worker_in_no_container_takes_its_tasks_along(stack, api, undisturbed):
    """Only its process group is killed, which those of its tasks are no part of: its ranks end too."""
    report = RunDirectory(Home(stack.home).run(DAG, undisturbed)).report_file
    before, tried = report.read_bytes(), tries(api, undisturbed)["validate"]
    body = {"dag_run_id": undisturbed, "task_ids": ["validate"], "only_failed": False, "dry_run": False}
    api.post(f"/dags/{DAG}/clearTaskInstances", body).raise_for_status()
    with stack.holding("shardline.launch.rank", "os.rename", rf"/{report.name}$"):
        stack.kill_process_group("worker-device")
    stack.lose_what_is_left("worker-device")
    stack.start("worker-device")
    assert ended(api, stack, undisturbed) == "success"
    assert tries(api, undisturbed)["validate"] == [tried[0] + 2]
    assert report.read_bytes() == before


@recorded("train", "queue", "postgres", "redis", "scheduler and api-server")
def test_a_training_loses_its_worker_its_queue_and_all_of_airflow(stack, api, parameters, undisturbed):
    """Its next try, which waits in Redis while that dies, goes on from the newest shard set; it notices no other loss.

    It ends with the very model of the run that nobody disturbed."""
    run_id = api.trigger(DAG, parameters)
    directory = RunDirectory(Home(stack.home).run(DAG, run_id))
    saving = ("shardline.launch.rank", "os.rename", rf"shard_set-{2 * STEPS_PER_EPOCH}\.json$")
    with stack.holding(*saving):
        stack.lose("worker-device")
    wait_until(lambda: stack.redis("LLEN", "device") == "1")
    assert stack.redis("CONFIG", "GET", "appendfsync").split() == ["appendfsync", "always"]  # else it may be lost
    stack.kill("redis")
    stack.start("redis")
    stack.start("worker-device")
    with stack.holding(*saving):
        for name in ("postgres", "redis"):
            stack.kill(name)
            stack.start(name)
            stack.wait_until_healthy()
        for name in ("scheduler", "api-server"):
            stack.kill(name)
        for name in ("api-server", "scheduler"):
            stack.start(name)
        stack.wait_until_healthy()
    assert ended(api, stack, run_id) == "success"
    assert tries(api, run_id)["train"] == [2]
    assert f"resumed from shard set {STEPS_PER_EPOCH}\n" in directory.rank_log(0).read_text()
    assert merged(api, run_id) == merged(api, undisturbed)
