"""Trigger it from the form, let a schedule trigger it, clear only the merge: on a running Airflow."""

import json
import time
from pathlib import Path

import numpy as np
from blake3 import blake3
from playwright.sync_api import expect
from safetensors.numpy import load_file

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.launch.records import rank_folder
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from tests.airflow.conftest import ENDLESS, leave
from tests.patience import PATIENCE_S
from tests.processes import processes_of

DAG = "sharded_training"
TASKS = {"prepare_dataset", "train", "merge", "validate", "promote", "export"}  # the others are not asked for


def test_a_run_from_the_form_trains_merges_validates_promotes_and_exports(form_run, api, server, digits, mapping):
    states = {task_id: task["state"] for task_id, task in api.tasks(DAG, form_run).items()}
    assert states == dict.fromkeys(TASKS, "success") | {"approve": "skipped", "upload": "skipped"}
    directory = RunDirectory(Home(server.shared).run(DAG, form_run))
    assert directory.read_config() == RunConfig(
        data_source="directory",
        data_directory=str(digits),
        world_size=4,
        epochs=1,
        batch_size=16,
        min_accuracy=0.0,
        save_checkpoint_steps=5,
        hugging_face_export=str(mapping),
    )
    merged = Path(api.xcom(DAG, form_run, "merge")["merged_file"])
    assert blake3(merged.read_bytes()).hexdigest() == api.xcom(DAG, form_run, "merge")["digest"]


def test_the_browser_shows_the_run_succeed(form_run, page, screenshot):
    page.goto(f"/dags/{DAG}/runs/{form_run}")
    expect(page.get_by_role("heading", name=form_run)).to_be_visible()
    for row in TASKS:
        expect(page.get_by_role("row", name=row).get_by_text("Success")).to_be_visible()
    screenshot("run")


def test_the_export_is_on_disk_and_on_the_page_with_what_was_proved(form_run, api, page, mapping):
    result, promoted = api.xcom(DAG, form_run, "export"), api.xcom(DAG, form_run, "promote")
    folder = Path(result["output"])
    assert (result["version"], result["digest"]) == (promoted["version"], promoted["digest"])
    exported, merged = load_file(folder / "model.safetensors"), read_checkpoint(Path(promoted["path"]) / "model.ckpt")
    assert sorted(exported) == [f"layers.{layer}.{part}" for layer in range(3) for part in ("bias", "weight")]
    for name, values in exported.items():
        _, layer, part = name.split(".")
        np.testing.assert_array_equal(values, merged[f"layer{int(layer) + 1}.{part}"])
    page.goto(f"/dags/{DAG}/runs/{form_run}/tasks/export")
    page.get_by_role("link", name="Sharded run", exact=True).press("Enter")
    frame = page.frame_locator("iframe[title='Sharded run']")
    expect(frame.get_by_role("tab", name="Versions")).to_have_attribute("aria-selected", "true")
    shown = frame.get_by_role("group").filter(has_text=f"Version {result['version']} for Hugging Face")
    expect(shown).to_contain_text("every element was read again, and is the version's. Logits: not compared:")
    expect(shown).to_contain_text(str(folder))
    expect(shown).to_contain_text(mapping.name)


def test_promotion_emits_the_asset_with_the_model(form_run, api):
    promoted = api.xcom(DAG, form_run, "promote")
    events = api.get("/assets/events", source_dag_id=DAG, source_run_id=form_run)["asset_events"]
    assert [(event["name"], event["source_task_id"]) for event in events] == [("shardline", "promote")]
    assert {key: events[0]["extra"][key] for key in promoted} == promoted
    assert (promoted["model"], promoted["new"]) == ("mnist-mlp", True)
    assert promoted["digest"] == api.xcom(DAG, form_run, "merge")["digest"]


def test_the_ranks_progress_is_in_the_tasks_log(form_run, api):
    assert "epoch: 1 step: 20, loss is " in api.log(DAG, form_run, "train")


def test_airflow_keeps_what_the_training_has_reached(form_run, reader):
    answer = json.loads(reader.types("reached", RUN=form_run))
    assert answer["value"] == {"step": 20, "steps": 20, "shard_set": 20, "seconds_left": 0}


def test_the_training_s_figures_arrive_by_airflow_s_own_metrics(form_run, statsd):
    place = f"shardline.{DAG}.mnist-mlp"
    deadline = time.monotonic() + PATIENCE_S
    while 0 not in (found := statsd.gauges("shardline.")).get("shardline.cards_in_use", []):  # the last look's
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert 20.0 in found[f"{place}.step"]
    assert min(found[f"{place}.samples_per_second"]) > 0
    assert min(found[f"{place}.step_seconds"]) > 0
    assert len(found[f"{place}.loss"]) == len(found[f"{place}.step"])
    assert min(found[f"{place}.queue_seconds"]) >= 0


def test_only_the_merge_is_run_again_by_rest(form_run, api, reader):
    before, result = api.tries(DAG, form_run), api.xcom(DAG, form_run, "merge")
    merged = Path(result["merged_file"])
    merged.unlink()  # so that it is there afterwards only if it was made again
    reader.types("clear the merge", RUN=form_run)
    assert api.wait_for_run(DAG, form_run) == "success"
    assert api.tries(DAG, form_run) == before | {"merge": before["merge"] + 1}
    assert api.xcom(DAG, form_run, "merge") == result
    assert blake3(merged.read_bytes()).hexdigest() == result["digest"]


def test_only_the_merge_is_run_again_from_the_browsers_dialog(form_run, api, page, screenshot):
    before, result = api.tries(DAG, form_run), api.xcom(DAG, form_run, "merge")
    page.goto(f"/dags/{DAG}/runs/{form_run}/tasks/merge/details")
    page.get_by_role("button", name="to clear").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Affected Tasks: 6")).to_be_visible()
    dialog.get_by_role("button", name="Downstream").click()
    expect(dialog.get_by_role("button", name="Affected Tasks: 1")).to_be_visible()
    screenshot("clear-merge")
    dialog.get_by_role("button", name="Confirm").click()
    expect(dialog).to_be_hidden()
    while api.tries(DAG, form_run)["merge"] == before["merge"]:
        page.wait_for_timeout(200)
    leave(page)
    assert api.wait_for_run(DAG, form_run) == "success"
    assert api.tries(DAG, form_run) == before | {"merge": before["merge"] + 1}
    assert api.xcom(DAG, form_run, "merge") == result


def test_retraining_runs_on_its_schedule_from_the_current_model(form_run, api, *, page, server, screenshot, reader):
    promoted = api.xcom(DAG, form_run, "promote")["version"]
    reader.types("unpause")
    while not (runs := api.get("/dags/retraining/dagRuns", order_by="id")["dag_runs"]):
        page.wait_for_timeout(500)
    state = api.wait_for_run("retraining", runs[0]["dag_run_id"])
    api.patch("/dags/retraining", is_paused=True)
    assert (runs[0]["run_type"], state) == ("scheduled", "success")
    directory = RunDirectory(Home(server.shared).run("retraining", runs[0]["dag_run_id"]))
    assert directory.read_config().start_from == "current"
    assert api.xcom("retraining", runs[0]["dag_run_id"], "promote")["version"] > promoted
    page.goto("/dags/retraining")
    screenshot("retraining")


def test_stopping_airflow_during_a_training_leaves_no_process(api, server, small):
    """The last test of this folder: the server is gone afterwards."""
    run_id = api.trigger(DAG, small | {"epochs": ENDLESS})
    directory = RunDirectory(Home(server.shared).run(DAG, run_id))
    while not list(directory.checkpoints.glob("shard_set-*.json")):
        time.sleep(0.2)
    rank = rank_folder(directory.logs, 0).read_started().pid
    assert rank in {process.pid for process in processes_of(str(server.home))}
    server.stop()
    assert server.process.returncode == 0
    assert processes_of(str(server.home)) == []
