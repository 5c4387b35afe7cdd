"""What a team does besides training: approve, merge other shard sets, clean up, be told, take up a new model."""

import json
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.run.directory import Home, RunDirectory
from tests.airflow.conftest import DEADLINE_HOURS, choose, leave
from tests.patience import PATIENCE_MS

DAG = "sharded_training"


@pytest.fixture(scope="module")
def asked_run(api, small) -> str:
    """The id of a run that waits for an approval; meanwhile `consume_model` listens."""
    api.patch("/dags/consume_model", is_paused=False)
    run_id = api.trigger(DAG, small | {"approval": True, "seed": 7})  # bytes that no other run here promotes
    wait_for_question(api, run_id)
    return run_id


def wait_for_question(api, run_id: str) -> None:
    while (state := api.tasks(DAG, run_id)["approve"]["state"]) != "awaiting_input":
        assert state not in ("failed", "upstream_failed", "skipped", "success")
        time.sleep(0.5)


def test_a_person_sees_the_report_and_approves(asked_run, api, page, screenshot, server):
    page.goto(f"/dags/{DAG}/runs/{asked_run}/tasks/approve/required_actions")
    expect(page.get_by_role("heading", name="Validation passed")).to_be_visible()
    plot = page.get_by_role("img", name="Confusion matrix")
    expect(plot).to_be_visible()
    page.wait_for_function("image => image.naturalWidth > 100", arg=plot.element_handle())
    screenshot("approval")

    def approve(_: str) -> None:
        page.goto(f"/dags/{DAG}/runs/{asked_run}/tasks/approve/required_actions")
        with page.expect_response(
            lambda answer: "hitlDetails" in answer.url and answer.request.method == "PATCH", timeout=PATIENCE_MS
        ):
            page.get_by_role("button", name="Approve").click()
        leave(page)

    api.answer(DAG, asked_run, "approve", approve, server.scheduler_log)
    assert api.wait_for_run(DAG, asked_run) == "success"
    assert api.xcom(DAG, asked_run, "promote")["version"] >= 1


def test_an_approved_model_is_taken_up_downstream_and_told(asked_run, api, server):
    promoted = api.xcom(DAG, asked_run, "promote")
    while not (runs := api.get("/dags/consume_model/dagRuns")["dag_runs"]):
        time.sleep(0.5)
    assert api.wait_for_run("consume_model", runs[0]["dag_run_id"]) == "success"
    taken = api.xcom("consume_model", runs[0]["dag_run_id"], "take")
    assert taken["version"] == promoted["version"]
    assert Path(taken["checkpoint"]).parent == Path(promoted["path"])
    notices = [json.loads(line) for line in server.notices.read_text().splitlines()]
    told = {notice["title"] for notice in notices if asked_run in notice["text"]}
    assert f"{DAG}: version {promoted['version']} promoted" in told
    assert (f"{DAG}: late" in told) == (DEADLINE_HOURS < 1)


def test_rejected_the_model_is_not_promoted(asked_run, api, server):
    """Cleared, the question is asked again."""
    body = {"dag_run_id": asked_run, "task_ids": ["approve"], "only_failed": False, "dry_run": False}
    api.post(f"/dags/{DAG}/clearTaskInstances", body | {"include_downstream": True}).raise_for_status()
    wait_for_question(api, asked_run)
    api.answer(DAG, asked_run, "approve", api.choose("Reject"), server.scheduler_log)
    assert api.wait_for_run(DAG, asked_run) == "success"
    assert api.tasks(DAG, asked_run)["promote"]["state"] == "skipped"


def test_any_shard_set_is_merged_from_the_form_which_says_what_is_missing(asked_run, api, page, screenshot):
    page.goto("/dags/merge_checkpoint")
    page.get_by_role("button", name="Trigger Dag").click()
    form = page.get_by_role("dialog")
    expect(form.locator("[name=element_run]")).to_be_visible()
    screenshot("merge-checkpoint")
    form.get_by_role("button", name="Trigger", exact=True).click()
    expect(form.get_by_text("run and shards: give one of them, to say which slices to merge")).to_be_visible()
    form.locator("[name=element_run]").fill(asked_run)
    form.get_by_role("button", name="Output").click()
    choose(page, "Format", ".safetensors")
    form.get_by_role("button", name="Which tensors").click()
    choose(page, "Cast to", "float16 (half)")
    form.locator("label:has(input[name=element_weights_only])").click()
    form.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url("**/dags/merge_checkpoint/runs/*")
    run_id = httpx.URL(page.url).path.rsplit("/", 1)[-1]
    leave(page)
    assert api.wait_for_run("merge_checkpoint", run_id) == "success"
    merged = read_checkpoint(Path(api.xcom("merge_checkpoint", run_id, "merge_checkpoint")["merged_file"]))
    assert {name.split(".")[0] for name in merged} == {"layer1", "layer2", "layer3"}
    assert {str(array.dtype) for array in merged.values()} == {"float16"}


def test_housekeeping_says_what_it_would_free_and_frees_no_running_one(
    asked_run, api, *, server, page, screenshot, reader
):
    page.goto("/dags/housekeeping")
    page.get_by_role("button", name="Trigger Dag").click()
    expect(page.get_by_role("dialog").locator("[name=element_keep_runs]")).to_be_visible()
    screenshot("housekeeping")
    leave(page)
    api.patch("/dags/housekeeping", is_paused=False)
    waiting = RunDirectory(Home(server.shared).run(DAG, asked_run))
    body = {"dag_run_id": asked_run, "task_ids": ["approve"], "only_failed": False, "dry_run": False}
    api.post(f"/dags/{DAG}/clearTaskInstances", body | {"include_downstream": True}).raise_for_status()
    wait_for_question(api, asked_run)
    run_id = api.trigger("housekeeping", {"keep_runs": 0, "dry_run": True})
    assert api.wait_for_run("housekeeping", run_id) == "success"
    planned = api.xcom("housekeeping", run_id, "plan")["runs"]
    assert all(run["bytes"] > 0 for run in planned)
    assert waiting.path.name not in {Path(folder).name for folder in api.xcom("housekeeping", run_id, "finished")}
    assert "Would free" in api.log("housekeeping", run_id, "free")
    assert list(waiting.checkpoints.glob("shard_set-*.json"))
    api.answer(DAG, asked_run, "approve", lambda _: reader.types("approve", RUN=asked_run), server.scheduler_log)
    assert api.wait_for_run(DAG, asked_run) == "success"
