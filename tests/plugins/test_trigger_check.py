"""Wrong parameters are refused when a run is triggered; everything else passes as it came."""

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from plugins.trigger_check import TriggerCheck


@pytest.fixture
def client() -> TestClient:
    """An application that says what reached it, behind the middleware."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "PATCH"])
    async def reached(request: Request, path: str) -> dict[str, object]:
        return {"method": request.method, "path": path, "body": (await request.body()).decode()}

    app.add_middleware(TriggerCheck)
    return TestClient(app)


def trigger(dag_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns"


@pytest.mark.parametrize(
    ("dag_id", "conf", "message"),
    [
        ("sharded_training", {"epohcs": 3}, "epohcs: unknown parameter; known are preset"),
        ("sharded_training", {"data_source": "directory"}, "needs data_directory"),
        ("sharded_training", {"preset": "quick", "epochs": 0}, "epochs: "),
        ("merge_checkpoint", {}, "run and shards: give one of them"),
        ("merge_checkpoint", {"run": "a/b", "max_file_size": "5GB"}, "max_file_size: only .safetensors are split"),
        ("housekeeping", {"keep_runs": -1}, "keep_runs: "),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_parameter_named(client, dag_id, conf, message):
    answer = client.post(trigger(dag_id), json={"logical_date": None, "conf": conf})
    assert answer.status_code == 400
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (trigger("sharded_training"), '{"logical_date": null, "conf": {"epochs": 2, "preset": "tutorial"}}'),
        (trigger("sharded_training"), '{"logical_date": null}'),
        (trigger("sharded_training"), '{"conf": null}'),
        (trigger("sharded_training"), "[]"),
        (trigger("sharded_training"), "no JSON"),
        (trigger("retraining"), '{"conf": {"data_source": "directory"}}'),
        (trigger("somebody_elses"), '{"conf": {"epohcs": 1}}'),
        ("/api/v2/dags/sharded_training/clearTaskInstances", '{"conf": {"epohcs": 1}}'),
    ],
)
def test_everything_else_reaches_airflow_as_it_came(client, path, body):
    answer = client.post(path, content=body)
    assert answer.status_code == 200
    assert answer.json() == {"method": "POST", "path": path[1:], "body": body}


def test_other_methods_and_large_documents_pass(client):
    assert client.get(trigger("sharded_training")).json()["method"] == "GET"
    large = '{"conf": {"data_directory": "' + "x" * 500_000 + '"}}'
    assert client.post(trigger("sharded_training"), content=large).json()["body"] == large
