"""Airflow's own processes, killed at moments that seeds draw while a run goes through its tasks: it ends like one that
nothing disturbed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardline.checkpoint.merging.verify import verify
from shardline.run.directory import Home, RunDirectory
from shardline.store.model_store import ModelStore
from tests.airflow.conftest import digits, small  # noqa: F401  fixtures
from tests.airflow.rest import FINISHED, Api
from tests.campaign.faults import OF_AIRFLOW
from tests.campaign.kinds import Loss
from tests.campaign.running_airflow import RunningAirflow, running
from tests.campaign.trial import tried
from tests.patience import PATIENCE_S
from tests.processes import environment_of
from tests.protocol.invariants import leftovers

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * PATIENCE_S)]
DAG = "sharded_training"
TASKS = ("prepare_dataset", "train", "merge", "validate", "promote")
SEEDS = 2


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAirflow]:
    with running(tmp_path_factory.mktemp("airflow")) as airflow:
        airflow.client.wait_for_dags({DAG})
        airflow.client.patch(f"/dags/{DAG}", is_paused=False)
        yield airflow


@pytest.fixture(scope="module")
def parameters(small: dict[str, Any]) -> dict[str, Any]:  # noqa: F811
    """Of a run that takes seconds."""
    return small


@pytest.fixture(scope="module")
def undisturbed(airflow: RunningAirflow, parameters: dict[str, Any]) -> bytes:
    """What a run that nothing happened to is merged into."""
    run_id = airflow.client.trigger(DAG, parameters | {"model_name": "undisturbed"})
    assert airflow.client.wait_for_run(DAG, run_id) == "success"
    return Path(airflow.client.xcom(DAG, run_id, "merge")["merged_file"]).read_bytes()


KILLS = [(loss, seed) for seed in range(SEEDS) for loss in OF_AIRFLOW]


@pytest.mark.parametrize(("loss", "seed"), KILLS, ids=lambda value: getattr(value, "victim", str(value)))
def test_a_process_of_airflow_is_killed(
    airflow: RunningAirflow,
    parameters: dict[str, Any],
    undisturbed: bytes,
    loss: Loss,
    seed: int,
) -> None:
    def run() -> None:
        chance = random.Random(f"{loss.kind} {seed}")
        api = airflow.client
        task, seconds = chance.choice(TASKS), round(chance.uniform(0, 4), 2)
        print(f"{loss.kind}: seed {seed}: {seconds} s after {task} began")
        model = f"{loss.victim.replace(' ', '-')}-{seed}"
        run_id = api.trigger(DAG, parameters | {"model_name": model})
        wait_for(api, run_id, task)
        time.sleep(seconds)
        airflow.kill(loss.victim, {instance["id"] for instance in api.tasks(DAG, run_id).values()})
        airflow.wait_until_healthy()
        assert api.wait_for_run(DAG, run_id) == "success", api.tasks(DAG, run_id)
        check_ends_undisturbed(airflow, RunDirectory(Home(airflow.shared).run(DAG, run_id)), model, undisturbed)
        check_no_orphan(run_id)

    tried(loss.kind, run, seed)


def wait_for(api: Api, run_id: str, task: str) -> None:
    """Return when the task has begun, or the run has ended."""
    while api.tasks(DAG, run_id)[task]["start_date"] is None:
        if api.get(f"/dags/{DAG}/dagRuns/{run_id}")["state"] in FINISHED:
            return
        time.sleep(0.1)


def check_ends_undisturbed(airflow: RunningAirflow, run: RunDirectory, model: str, expected: bytes) -> None:
    verify(run.merged / "model.ckpt", workers=1)
    assert (run.merged / "model.ckpt").read_bytes() == expected
    store = ModelStore(Home(airflow.shared), model)
    assert [version.version for version in store.versions()] == [1]
    (version,) = store.versions()
    version.verify()
    assert version.model_file.read_bytes() == expected
    assert store.current_number() == 1
    assert not (run.path / "failures").exists() or not [*(run.path / "failures").glob("*.json")]
    assert not leftovers(run.path)
    assert not leftovers(store.path)


def check_no_orphan(run_id: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := [each for each in psutil.process_iter() if environment_of(each).get("SHARDLINE_RUN_ID") == run_id]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
