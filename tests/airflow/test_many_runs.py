"""Twenty runs triggered at once, on four cards: all end, none shares a card, nothing is lost."""

import time

import psutil
import pytest

from tests.airflow.conftest import CARDS
from tests.airflow.rest import FINISHED
from tests.processes import environment_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]
DAG = "sharded_training"
WORLD_SIZES = [1, 4, 4, 1, 4, 1, 1, 4, 1, 4, 1, 4, 1, 1, 4, 1, 1, 4, 1, 4]


def cards_in_use(runs: set[str]) -> dict[str, list[str]]:
    """The cards of every mpirun that works for one of `runs`, as its environment names them; asked for its version, it
    has none."""
    used = {}
    for process in psutil.process_iter(["name"]):
        environment = environment_of(process) if process.info["name"] in ("mpirun", "prterun") else {}
        if environment.get("SHARDLINE_RUN_ID") in runs and "SHARDLINE_CARDS" in environment:
            used[environment["SHARDLINE_RUN_ID"]] = environment["SHARDLINE_CARDS"].split(",")
    return used


def test_twenty_runs_at_once(api, small):
    parameters = small | {"model_name": "many"}
    runs = {
        api.trigger(DAG, parameters | {"world_size": size, "seed": seed}): size for seed, size in enumerate(WORLD_SIZES)
    }
    seen: dict[str, set[tuple[str, ...]]] = {run_id: set() for run_id in runs}
    while any(api.get(f"/dags/{DAG}/dagRuns/{run_id}")["state"] not in FINISHED for run_id in runs):
        used = cards_in_use(set(runs))
        together = [card for cards in used.values() for card in cards]
        assert len(together) == len(set(together)) <= CARDS, used
        for run_id, cards in used.items():
            seen[run_id].add(tuple(cards))
        time.sleep(0.2)
    for run_id, size in runs.items():
        assert api.wait_for_run(DAG, run_id) == "success"
        assert api.tries(DAG, run_id)["train"] == 1
        assert max(map(len, seen[run_id])) == size
    assert len({api.xcom(DAG, run_id, "merge")["digest"] for run_id in runs}) == len(runs)
    assert sorted(api.xcom(DAG, run_id, "promote")["version"] for run_id in runs) == list(range(1, len(runs) + 1))
