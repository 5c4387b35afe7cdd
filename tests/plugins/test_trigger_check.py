"""Wrong parameters are refused when somebody triggers a run who may; nothing of a stranger's request is looked at."""

import asyncio
import json
import os
import time
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import pytest
from pydantic import Field

import plugins.trigger_check
from dags.form import form
from plugins.trigger_check import MOST_BYTES, TriggerCheck, _described, _OfNumbers, _OfOurs
from shardline.settings.parameters import Parameters
from tests.patience import PATIENCE_S

OURS = ("sharded_training", "retraining", "merge_checkpoint", "housekeeping")
NOT_OURS = "consume_model"  # another DAG of the same Airflow, which the check leaves alone
DEEP = '{"conf": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001
MANY = json.dumps({"logical_date": None, "conf": {f"unknown{number}": 1 for number in range(20_000)}})
LARGE = json.dumps({"logical_date": None, "conf": {"data_directory": "x" * (MOST_BYTES + 1)}})
BODIES = {
    "wrong": '{"logical_date": null, "conf": {"epohcs": 3, "rnu": 1, "kepe": 2}}',
    "none": "",
    "no JSON": "{",
    "no object": "[]",
    "deep": DEEP,
    "many": MANY,
    "large": LARGE,
    "digits": '{"logical_date": null, "conf": {"epochs": ' + "9" * 5000 + "}}",
}


def trigger(site, user: str | None, dag_id: str, body: str) -> httpx.Response:
    with site.client(user) as client:
        return client.post(f"/api/v2/dags/{dag_id}/dagRuns", content=body, headers={"Content-Type": "application/json"})


def post(site, dag_id: str, conf: Any) -> httpx.Response:
    return trigger(site, "ada", dag_id, json.dumps({"logical_date": None, "conf": conf}))


@pytest.mark.parametrize(("user", "status"), [(None, 401), ("vera", 403), ("otto", 403)])
@pytest.mark.parametrize("body", BODIES)
def test_who_may_not_trigger_hears_what_airflow_says_of_any_dag(site, user, status, body):
    expected = trigger(site, user, NOT_OURS, BODIES[body])
    for dag_id in OURS:
        answer = trigger(site, user, dag_id, BODIES[body])
        assert (answer.status_code, answer.content) == (expected.status_code, expected.content)
        assert answer.status_code in (status, 400, 422)  # Airflow's own, of what it cannot even parse
        assert b"known are" not in answer.content
        assert len(answer.content) < 10_000
    if body in ("wrong", "none", "many", "large"):
        assert expected.status_code in (status, 422)
    if body == "wrong":
        assert expected.status_code == status


@pytest.mark.parametrize("token", ["forged", "ada's, cut"])
def test_a_forged_token_is_no_better(site, token):
    token = site.token("ada")[:-8] + "AAAAAAAA" if token != "forged" else token
    answers = [
        httpx.post(
            f"{site.address}/api/v2/dags/{dag_id}/dagRuns",
            content=BODIES["wrong"],
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
            timeout=PATIENCE_S,
        )
        for dag_id in (NOT_OURS, *OURS)
    ]
    assert {answer.status_code for answer in answers} <= {401, 403}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize(
    ("dag_id", "conf", "message"),
    [
        ("sharded_training", {"epohcs": 3}, "epohcs: unknown parameter; known are preset"),
        ("sharded_training", {"data_source": "directory"}, "needs data_directory"),
        ("sharded_training", {"preset": "quick", "epochs": 0}, "epochs: "),
        ("sharded_training", {"epochs": "-1"}, "epochs: "),
        ("sharded_training", {"world_size": "99999"}, "world_size: Input should be less than or equal to 4096"),
        ("sharded_training", {"learning_rate": "abc"}, "learning_rate: Input should be a valid number (found 'abc')"),
        ("sharded_training", {"network": "gpt", "world_size": 2}, "world_size to be a multiple of tensor_parallel"),
        ("sharded_training", {"network": "gpt", "world_size": "2"}, "world_size to be a multiple of tensor_parallel"),
        (
            "sharded_training",
            {"network": "gpt", "layers": 1000, "world_size": 6},
            "multiple of tensor_parallel 4, found 6",
        ),
        (
            "sharded_training",
            {"network": "gpt", "device_target": "GPU", "pipeline_stages": 4, "tensor_parallel": 2},
            "expected layers to be at least pipeline_stages 4, found 2",
        ),
        ("sharded_training", {"world_size": 6}, "network mlp cannot be trained on 6 ranks"),
        ("retraining", {"world_size": 6}, "network mlp cannot be trained on 6 ranks"),
        ("retraining", {"epohcs": 3}, "epohcs: unknown parameter; known are preset"),
        ("merge_checkpoint", {}, "run and shards: give one of them"),
        ("merge_checkpoint", {"run": "a/b", "max_file_size": "5GB"}, "max_file_size: only .safetensors are split"),
        ("housekeeping", {"keep_runs": -1}, "keep_runs: "),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_parameter_named(site, dag_id, conf, message):
    answer = post(site, dag_id, conf)
    assert answer.status_code == 400
    assert message in answer.json()["detail"]


@pytest.mark.parametrize("dag_id", OURS)
@pytest.mark.parametrize(
    "conf",
    [
        {f"unknown{number}": 1 for number in range(20_000)},
        {"x" * 900_000: 1},
        {"mirrors": [1] * 300_000, "include": [1] * 10, "keep_runs": "x" * 1000},
        {"network": "x" * 400_000, "name": "x" * 400_000},
        {"\ud800\n": "\ud800", "epochs": "\ud800"},
    ],
)
def test_an_answer_stays_short_whatever_was_sent(site, dag_id, conf):
    answer = post(site, dag_id, conf)
    assert answer.status_code == 400
    assert len(answer.content) < 20_000


def test_a_body_that_is_too_large_is_refused_before_all_of_it_is_read(site):
    answer = trigger(site, "ada", "sharded_training", LARGE)
    assert answer.status_code == 413
    assert f"at most {MOST_BYTES} bytes" in answer.json()["detail"]


def test_the_body_of_a_stranger_is_not_asked_for(monkeypatch):
    reached = []

    async def airflow(scope, receive, send):
        reached.append(scope["path"])

    async def receive():
        raise AssertionError("the body was read")

    async def nobody(*_: Any) -> bool:
        return False

    monkeypatch.setattr(plugins.trigger_check, "_may_trigger", nobody)
    scope = {"type": "http", "method": "POST", "path": "/api/v2/dags/housekeeping/dagRuns", "headers": []}
    asyncio.run(TriggerCheck(airflow)(scope, receive, receive))
    assert reached == [scope["path"]]


def test_the_event_loop_serves_others_while_parameters_are_checked(monkeypatch):
    """A check that takes long, and another request beside it: the second does not wait for the first."""
    order = []

    async def anybody(*_: Any) -> bool:
        return True

    def slow(*_: Any) -> str:
        time.sleep(0.5)
        return "wrong"

    async def airflow(scope, receive, send):
        order.append("another")

    async def send(message):
        order.append(message["type"])

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def both():
        check = TriggerCheck(airflow)
        scope = {"type": "http", "method": "POST", "path": "/api/v2/dags/housekeeping/dagRuns", "headers": []}
        scope["app"] = SimpleNamespace(state=SimpleNamespace(dag_bag=None))
        first = asyncio.create_task(check(scope, receive, send))
        await asyncio.sleep(0.1)
        await check(scope | {"method": "GET"}, receive, send)
        await first

    monkeypatch.setattr(plugins.trigger_check, "_may_trigger", anybody)
    monkeypatch.setattr(plugins.trigger_check, "_form", lambda *_: object())
    monkeypatch.setattr(plugins.trigger_check, "_problem", slow)
    asyncio.run(both())
    assert order == ["another", "http.response.start", "http.response.body"]


def test_a_network_that_is_the_users_own_code_is_not_imported_here(site, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert post(site, "sharded_training", {"network": "mine:net"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        '{"logical_date": null, "conf": {"epochs": 2, "preset": "tutorial"}}',
        '{"logical_date": null, "conf": {"epochs": "2", "world_size": null, "learning_rate": "3e-4"}}',
        '{"logical_date": null}',
    ],
)
def test_good_parameters_reach_airflow(site, body):
    answer = trigger(site, "ada", "sharded_training", body)
    assert answer.status_code == 200
    assert answer.json()["conf"] == json.loads(body).get("conf", {})


@pytest.mark.parametrize("body", ['{"conf": null}', "[]", "no JSON", DEEP, '{"conf": 3}'])
def test_what_has_no_parameters_is_airflows_to_judge(site, body):
    expected, answer = trigger(site, "ada", NOT_OURS, body), trigger(site, "ada", "sharded_training", body)
    assert (answer.status_code, answer.json()) == (expected.status_code, expected.json())
    assert answer.status_code in (400, 422)


class Described(Parameters):
    """As a file that describes a training declares them."""

    rate: float = Field(0.5, gt=0, le=1, title="Rate")
    cards: int = Field(4, ge=1, title="Cards")
    size: Literal[1, 2] = Field(1, title="Size")


@pytest.mark.parametrize(
    ("conf", "problems"),
    [
        ({"rate": "3e-4", "cards": " 8 ", "size": 2, "unknown": "x"}, []),
        ({"rate": 2, "cards": None}, []),  # numbers, and nothing, are Airflow's to judge
        ({"rate": "2"}, ["rate: 2.0 is greater than the maximum of 1"]),
        ({"rate": "abc", "cards": "-1"}, ["rate: expected a number like 0.5, found 'abc'", "cards: -1 is less than"]),
        ({"cards": "2.5"}, ["cards: expected a number like 4, found '2.5'"]),
    ],
)
def test_numbers_of_a_training_that_somebody_describes_are_refused_as_texts_too(conf, problems):
    schemas = {name: param.schema for name, param in form(Described).items()}
    found = _OfNumbers({name: schemas[name] for name in ("rate", "cards")}).problem(conf)
    assert found.count("\n") == len(problems)
    assert all(problem in found for problem in problems)


def test_other_requests_pass_as_they_came():
    """ASGI: the very messages, and the scope, of what is no trigger of ours."""
    passed = []

    async def airflow(scope, receive, send):
        passed.append((scope, receive, send))

    receive, send = object(), object()
    for scope in (
        {"type": "lifespan"},
        {"type": "websocket", "path": "/api/v2/dags/sharded_training/dagRuns"},
        {"type": "http", "method": "GET", "path": "/api/v2/dags/sharded_training/dagRuns"},
        {"type": "http", "method": "POST", "path": "/api/v2/dags/sharded_training/clearTaskInstances"},
    ):
        asyncio.run(TriggerCheck(airflow)(scope, receive, send))
        assert passed[-1] == (scope, receive, send)


def test_the_forms_of_described_trainings_are_those_of_their_files(monkeypatch, tmp_path):
    file = tmp_path / "mine.toml"
    text = 'name = "mine"\ncommand = ["true"]\n[parameters.rate]\ntype = "number"\ndefault = 0.5\nmaximum = 1\n'
    file.write_text(f'{text}[slices]\nfiles = "*.ckpt"\n')
    (tmp_path / "broken.toml").write_text("name")
    assert list(_described("mine")) == []
    monkeypatch.setenv("SHARDLINE_TRAININGS", str(tmp_path))
    (parameters,) = _described("mine")
    form = _OfOurs(parameters, {})
    assert "rate: Input should be less than or equal to 1" in form.problem({"rate": 2})
    assert "rate: Input should be less than or equal to 1" in form.problem({"rate": "2"}), "as the form sends it"
    assert "known are rate" in form.problem({"command": "id"})
    assert form.problem({"rate": "0.5"}) == form.problem({"rate": 0.5}) == ""
    assert list(_described("broken")) == list(_described("sharded_training")) == []
    file.write_text(file.read_text().replace("maximum = 1", "maximum = 10"))
    os.utime(file, (1, 1))
    (parameters,) = _described("mine")
    assert _OfOurs(parameters, {}).problem({"rate": 2}) == "", "the file was read again"
