"""What the documents say of Airflow's REST interface, typed as it stands.

Commands about a run that has trained, or waits, are typed where there is one: in test_three_uses and test_operating.
"""

import json

import pytest

from tests.airflow.documented import COMMANDS, blocks, command

DAG = "sharded_training"


def test_every_command_of_the_documents_is_one_that_is_typed():
    assert sorted(blocks()) == sorted(command(name) for name in COMMANDS)


@pytest.fixture
def paused(api):
    """No run of the pipeline begins meanwhile."""
    api.patch(f"/dags/{DAG}", is_paused=True)
    yield
    api.patch(f"/dags/{DAG}", is_paused=False)


def test_a_run_is_triggered_and_looked_at(paused, api, reader):
    run_id = reader.types("trigger", show="RUN").strip()
    run = api.get(f"/dags/{DAG}/dagRuns/{run_id}")
    assert run["conf"] == {"preset": "quick", "epochs": 2}
    looked_at = json.loads(reader.types("state", RUN=run_id))
    api.delete(f"/dags/{DAG}/dagRuns/{run_id}")
    assert (looked_at["dag_run_id"], looked_at["state"]) == (run_id, "queued")


def test_new_data_is_announced(api, reader):
    answer = json.loads(reader.types("new data"))
    (asset,) = api.get("/assets", name_pattern="shardline-dataset")["assets"]
    assert (answer["asset_id"], answer["extra"]["from"]) == (asset["id"], "the nightly export")
