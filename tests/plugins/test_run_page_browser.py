"""The page of a run in a real browser: what it shows, by mouse and by keyboard."""

import dataclasses
import json
import shutil
import time
from datetime import datetime, timedelta, timezone

import pytest
from playwright.sync_api import expect

from benchmarks.run_page.synthetic_run import Size, metric_records, write_ranks, write_run, write_shard_set
from shardline.base.digest import file_digest
from shardline.base.json_object import encode_object
from shardline.run.directory import RunDirectory
from shardline.run.failures import failure_file
from shardline.run.lineage import LINEAGE, lineage_of
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import ModelStore
from shardline.store.version import Candidate
from tests.patience import PATIENCE_MS
from tests.plugins.conftest import DAG, SCRIPT, show

LOG_PAGE = 64 * 1024  # of static/rank_log.js


def test_a_growing_run_is_followed(open_page, site):
    run = site.trigger("growing")
    size = Size(steps=400, steps_per_epoch=100)
    write_ranks(run, Size(steps=0, log_lines=3))
    run.write_config(RunConfig(epochs=4))
    records = [json.dumps(record) + "\n" for record in metric_records(size, 1)]
    run.metrics_file.write_text("".join(records[:150]))
    for rank in range(8):
        (run.rank_log(rank).parent / "finished.json").unlink()
    site.set_state("growing", "running", train="running")
    page = show(open_page(), "growing", "training")
    expect(page.locator("#run-summary")).to_contain_text("step 149 of 400")
    expect(page.locator("#curve-summary")).to_contain_text("at step 149")
    with run.metrics_file.open("a") as file:
        file.writelines(records[150:])
    expect(page.locator("#curve-summary")).to_contain_text("at step 400")
    page.get_by_role("tab", name="Ranks").click()
    page.get_by_role("button", name="Log of rank 5").click()
    with run.rank_log(5).open("a") as file:
        file.write("what was said last\n")
    expect(page.locator("pre.log")).to_contain_text("what was said last")
    expect(page.get_by_role("row", name="5 running")).to_be_visible()


def test_progress_and_time_left_are_known_from_the_first_step_on(open_page, site):
    run = site.trigger("one-epoch")
    write_ranks(run, Size(steps=0, log_lines=3))
    run.write_config(RunConfig(epochs=1))
    records = [json.dumps(record) + "\n" for record in metric_records(Size(steps=100), 1)]
    run.metrics_file.write_text(records[0])
    status = {"rank": 0, "step": 1, "last_step": 100, "steps_per_second": 3.0, "time": time.time()}
    run.rank_status(0).write_text(json.dumps(status))
    site.set_state("one-epoch", "running", train="running")
    page = show(open_page(), "one-epoch", "overview")
    expect(page.locator("#run-summary")).to_contain_text("step 1 of 100, ")
    expect(page.locator("#run-summary")).to_contain_text("about 33 s left")
    expect(page.get_by_role("tabpanel")).to_contain_text("1.0 %")
    run.metrics_file.write_text("".join(records))
    site.set_state("one-epoch", "running", train="success")
    expect(page.locator("#run-summary")).to_contain_text("step 100 of 100")
    expect(page.locator("#run-summary")).to_contain_text("training has finished")
    expect(page.locator("#run-summary")).not_to_contain_text("left")


def test_tasks_stand_in_the_dags_order_with_the_way_to_their_logs_whatever_became_of_them(open_page, site):
    site.trigger("cleared")
    site.set_state("cleared", "running", train="success", promote="running", merge=None, approve="awaiting_input")
    page = show(open_page(), "cleared", "overview")
    rows = page.get_by_role("region", name="Tasks of this run").locator("tbody th")
    order = ["prepare_dataset", "train", "merge", "validate", "approve", "promote", "upload", "export"]
    expect(rows).to_have_text(order)
    ways = page.get_by_role("region", name="Tasks of this run").get_by_role("link")
    addresses = [way.get_attribute("href") for way in ways.all()]
    tasks = f"/dags/{DAG}/runs/cleared/tasks"
    assert addresses == [f"{tasks}/{task}{'/required_actions' if task == 'approve' else ''}" for task in order]
    header = page.locator("#ways")
    expect(header.get_by_role("link", name="approve waits for an answer")).to_be_visible()
    assert header.get_by_role("link", name="The run in Airflow").get_attribute("href") == f"/dags/{DAG}/runs/cleared"


def test_below_the_heading_of_one_run_there_is_never_another(browser, site, finished_run):
    context = browser.new_context(viewport={"width": 1280, "height": 860}, base_url=site.address)
    context.set_default_timeout(PATIENCE_MS)
    context.add_cookies([{"name": "_token", "value": site.token("ada"), "url": site.address}])
    page = context.new_page()
    page.goto(f"/dags/{DAG}/runs/{finished_run}/plugin/sharded-run")
    frame = page.frame_locator("iframe[title='Sharded run']")
    expect(frame.locator("#run-id")).to_have_class("hidden")
    frame.get_by_role("link", name="All runs").click()
    page.wait_for_url("**/plugin/sharded-runs")
    runs = page.frame_locator("iframe[title='Training']")
    runs.get_by_role("link", name=finished_run).click()
    expect(runs.locator("#run-id")).to_have_text(finished_run)
    expect(runs.locator("#run-id")).not_to_have_class("hidden")
    runs.get_by_role("link", name="The run in Airflow").click()
    page.wait_for_url(f"**/dags/{DAG}/runs/*")
    context.close()


def test_a_merge_that_did_nothing_tells_no_time_of_its_own(open_page, site):
    run_id = "merged-twice"
    write_run(site.trigger(run_id).path, Size(steps=40, parameters=1, log_lines=1))
    site.set_state(run_id, "success", merge="success")
    site.set_start(run_id, "merge", datetime.now(tz=timezone.utc) - timedelta(hours=1))
    page = show(open_page(), run_id, "merge")
    expect(page.get_by_text("Throughput of the task")).to_be_visible()
    site.set_start(run_id, "merge", datetime.now(tz=timezone.utc) + timedelta(hours=1))
    page.reload()
    expect(page.get_by_text("found this up to date: it merged nothing")).to_be_visible()
    expect(page.get_by_text("Throughput of the task")).to_have_count(0)
    expect(page.get_by_text("Task's time")).to_have_count(0)


def test_a_merge_on_request_has_a_page_of_its_own_kind(open_page, site, finished_run):
    run_id, dag_id = "manual__merge", "merge_checkpoint"
    run = site.trigger(run_id, dag_id, run=finished_run, name="half")
    source = RunDirectory(site.home.run(DAG, finished_run))
    shutil.copytree(source.merged, run.merged)
    run.config_file.write_text(MergeCheckpointConfig(run=finished_run).to_json())
    site.set_state(run_id, "success", merge_checkpoint="success")
    page = open_page()
    page.goto(f"/run-page/dags/{dag_id}/run?run_id={run_id}&task=merge_checkpoint")
    page.wait_for_selector("body[data-ready=merge]")
    expect(page.get_by_role("tab")).to_have_text(["Overview", "Merge"])
    expect(page.locator(".proved")).to_contain_text("31 tensors were read again and compared")
    expect(page.get_by_text("No shard set")).to_have_count(0)
    page.get_by_role("tab", name="Overview").click()
    expect(page.get_by_role("region", name="Tasks of this run").locator("tbody th")).to_have_text(["merge_checkpoint"])
    expect(page.get_by_text("No step yet")).to_have_count(0)


def test_the_chosen_tab_is_in_sight_and_words_stay_whole_on_a_narrow_window(open_page, finished_run):
    page = show(open_page(width=400), finished_run, "versions")
    expect(page.get_by_role("tab", name="Versions")).to_be_in_viewport(ratio=0.9)
    show(page, finished_run, "overview")
    broken = page.evaluate(
        """() => [...document.querySelectorAll("th, td, dt, h2")]
            .filter((node) => ["anywhere", "break-all"].includes(getComputedStyle(node).overflowWrap))
            .map((node) => node.textContent)"""
    )
    assert broken == []


def test_a_page_that_waits_says_that_it_loads(open_page, finished_run):
    page = open_page()
    page.route("**/overview?*", lambda route: None)
    page.goto(f"/run-page/dags/{DAG}/run?run_id={finished_run.replace('+', '%2B')}")
    expect(page.get_by_role("tabpanel")).to_have_text("Loading…")
    expect(page.locator("#run-summary")).to_have_text("Loading…")


def test_a_big_log_is_read_page_by_page_and_downloaded_whole(open_page, site, finished_run, tmp_path):
    log = site.home.run(DAG, finished_run) / "log_output" / "1" / "rank.6" / "stdout"
    text = "".join(f"line {number}: {'x' * 80}\n" for number in range(5000))
    log.write_text(text)
    page = show(open_page(), finished_run, "ranks")
    page.get_by_role("button", name="Log of rank 6").click()
    shown = page.locator("pre.log")
    expect(shown).to_contain_text("line 4999")
    expect(shown).not_to_contain_text("line 3000:")
    for _ in range(len(text) // LOG_PAGE):
        page.get_by_role("button", name="Earlier").click()  # which waits until the page before has come
    expect(shown).to_contain_text("line 0:")
    assert shown.text_content() == text
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    download.value.save_as(tmp_path / "log")
    assert (tmp_path / "log").read_text() == text


def test_the_shard_map_shows_who_holds_which_slice(open_page, finished_run):
    page = show(open_page(), finished_run, "shards")
    page.get_by_role("button", name="block2.weight", exact=True).click()
    detail = page.locator(".detail")
    expect(detail).to_contain_text("Cut into 8 slices (2 × 4), each held by one rank")
    expect(detail).to_contain_text("32 × 8, 1.02 kB")
    rank = detail.get_by_role("button", name="rank 6 holds [32:64, 16:24]")
    rank.focus()
    expect(detail.locator("g[data-slice='1,2']")).not_to_have_class("dim")
    expect(detail.locator("g[data-slice='0,0']")).to_have_class("dim")
    page.get_by_label("Name contains").fill("block4")
    expect(page.get_by_role("region", name="Parameters").get_by_role("row")).to_have_count(2)
    expect(detail).to_contain_text("Not cut: all 8 ranks hold the whole")
    page.get_by_label("Show").select_option("Optimizer states")
    expect(page.get_by_role("button", name="moment2.block4.weight")).to_be_visible()


@pytest.mark.parametrize("width", [400, 1280])
def test_the_numbers_of_ranks_can_be_read_inside_of_their_slices(open_page, finished_run, width):
    page = show(open_page(width=width), finished_run, "shards")
    page.get_by_role("button", name="block2.weight", exact=True).click()
    labels = page.locator(".tensor text")
    expect(labels).to_have_count(8)
    assert page.evaluate(LABELS_OUTSIDE) == []
    assert min(label.bounding_box()["height"] for label in labels.all()) >= 11


# The texts in the picture that reach beyond their slices.
LABELS_OUTSIDE = """() => [...document.querySelectorAll(".tensor text")].filter((text) => {
    const [own, slice] = [text, text.parentNode.querySelector("rect")].map((node) => node.getBoundingClientRect());
    return own.left < slice.left || own.right > slice.right || own.top < slice.top || own.bottom > slice.bottom;
}).map((text) => text.textContent)"""


def test_digests_stay_whole_on_a_narrow_window(open_page, finished_run):
    page = show(open_page(width=400), finished_run, "merge")
    page.get_by_text("31 tensors, options and versions").click()
    digests = page.locator("code.digest")
    expect(digests).to_have_count(32)
    assert {len(digest) for digest in digests.all_inner_texts()} == {17}
    lines = page.evaluate("[...document.querySelectorAll('code.digest')].map((node) => node.getClientRects().length)")
    assert set(lines) == {1}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_merge_and_validation_show_proof_and_confusion(open_page, finished_run):
    page = show(open_page(), finished_run, "merge")
    expect(page.locator(".proved")).to_contain_text("31 tensors were read again and compared with 248 slices")
    page.get_by_text("31 tensors, options and versions").click()
    expect(page.get_by_role("row", name="moment1.block0.weight")).to_contain_text("Float32")
    page.get_by_role("tab", name="Validation").click()
    expect(page.get_by_text("94.8 %")).to_be_visible()
    expect(page.get_by_title("47 of true class 3 taken for 3")).to_be_visible()


def test_what_a_language_model_writes_is_shown(open_page, site):
    run = site.trigger("language")
    run.validation.mkdir(parents=True)
    report = {
        "passed": False,
        "failures": ["expected a perplexity of at most 3, found 5.2 on 1000 tokens"],
        "metric": "perplexity",
        "perplexity": 5.2,
        "generated": {"prompt": "Once ", "text": f"upon a {SCRIPT}", "temperature": 0.8, "seed": 1},
    }
    run.report_file.write_text(json.dumps(report))
    page = show(open_page(), "language", "validation")
    expect(page.locator(".problem")).to_contain_text("found 5.2")
    expect(page.locator("pre.sample")).to_have_text(f"Once upon a {SCRIPT}")
    assert page.evaluate("window.hacked") is None


def test_a_failed_run_says_which_rank_and_why(open_page, site):
    run = site.trigger("failed")
    write_ranks(run, Size(steps=40))
    folder = run.rank_log(3).parent
    (folder / "finished.json").unlink()
    (folder / "failure.json").write_text(json.dumps({"rank": 3, "signal_number": 9, "exit_code": 137, "time": 1.8e9}))
    record = failure_file(run, "train")
    record.parent.mkdir()
    message = "rank 3 on node0 was ended by signal 9 (SIGKILL).\nThe last lines of rank 3's log: …"
    record.write_text(json.dumps({"task": "train", "error": "LaunchError", "message": message, "time": 1.8e9}))
    site.set_state("failed", "failed", train="failed")
    page = show(open_page(), "failed", "ranks")
    expect(page.get_by_role("alert").first).to_contain_text("train failed: rank 3 on node0 was ended by signal 9")
    expect(page.get_by_role("row", name="3 failed")).to_contain_text("ended by signal 9")
    expect(page.get_by_role("status")).to_contain_text("8 ranks: 7 finished, 1 failed")


def test_a_merge_that_was_refused_says_why(open_page, site):
    run = site.trigger("refused")
    write_shard_set(run, Size(steps=40, parameters=2))
    record = failure_file(run, "merge")
    record.parent.mkdir()
    refusal = {"task": "merge", "error": "ReplicaMismatch", "message": "ranks 0 and 4 differ in layer1.bias", "time": 1}
    record.write_text(json.dumps(refusal))
    page = show(open_page(), "refused", "merge")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_text("ReplicaMismatch")).to_be_visible()
    expect(panel.get_by_text("ranks 0 and 4 differ in layer1.bias")).to_be_visible()
    expect(panel.get_by_role("row", name="40")).to_contain_text("newest: merged next")


def test_versions_and_the_current_one(open_page, site, finished_run, tmp_path):
    run = site.home.run(DAG, finished_run)
    merge = json.loads((run / "merged" / "model.ckpt.merge.json").read_text())
    code = {"shardline": {"version": "0.2.0", "commit": "a" * 40, "changed": True}, "program": None}
    lineage = lineage_of(RunDirectory(run), site.home) | {"code": [code]}
    candidate = Candidate(
        run=str(run.relative_to(site.home.path)),
        model=run / "merged" / "model.ckpt",
        digest=merge["output"][0]["digest"],
        metric="accuracy",
        value=0.948,
        step=3000,
        documents={LINEAGE: encode_object(lineage)},
    )
    model = json.loads((run / "config.json").read_text())["model_name"]
    ModelStore(site.home, model).add(candidate)
    page = show(open_page(), finished_run, "versions")
    row = page.get_by_role("row", name="1 current")
    expect(row).to_contain_text("Accuracy 0.948")
    expect(row).to_contain_text("this run")
    origin = page.get_by_role("group").filter(has_text="From what version 1 was made")
    expect(origin.get_by_title(lineage["shard_set"]["digest"])).to_be_visible()
    expect(origin.get_by_title(lineage["merged"]["digest"])).to_be_visible()
    expect(origin).to_contain_text(f"0.2.0, {'a' * 16}…, with changes")
    expect(page.get_by_text("for Hugging Face")).to_have_count(0)
    folder = site.home.export(model, 1)
    folder.mkdir(parents=True)
    (folder / "export.json").write_text(json.dumps(exported(candidate.digest, None, "proved by bytes alone: untold")))
    page.reload()
    export = page.get_by_role("group").filter(has_text="Version 1 for Hugging Face")
    expect(export).to_contain_text("Bytes: all read again. Logits: not compared: untold.")
    expect(export).to_contain_text(f"{folder}")
    expect(export).to_contain_text(f"{SCRIPT}, {'b' * 16}…")
    logits = {"samples": 64, "relative_difference": 2.6e-7, "tolerance": 1e-5}
    (folder / "export.json").write_text(json.dumps(exported(candidate.digest, logits, "loads strictly")))
    page.reload()
    expect(export).to_contain_text("on 64 samples computes what the sharded ranks did, to 2.60e-7 of the greatest")
    expect(export).to_contain_text("at most 1.00e-5 was allowed")
    (folder / "export.json").write_text("{")
    page.reload()
    expect(page.get_by_role("tabpanel").locator(".notice")).to_contain_text("export again")
    expect(origin).to_be_visible()
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"of another run")
    newer = dataclasses.replace(candidate, run=f"runs/{DAG}/newer", model=file, digest=file_digest(file))
    ModelStore(site.home, model).add(newer)
    page.reload()
    expect(page.get_by_role("row", name="2 current")).to_be_visible()
    expect(origin.get_by_title(lineage["merged"]["digest"])).to_be_visible()  # it is this run's, if not the current one
    of_newer = page.get_by_role("group").filter(has_text="From what version 2 was made")
    expect(of_newer.get_by_title(lineage["merged"]["digest"])).to_be_hidden()


def exported(digest, logits, said):
    """The record of an export, by a mapping file of any name."""
    return {
        "source": {"digest": digest},
        "mapping": {"name": SCRIPT, "digest": "b" * 64},
        "tensors": 6,
        "bytes": 2_345_000,
        "left_out": ["global_step"],
        "files": {"model.safetensors": "d" * 64},
        "proof": {"bytes": "all read again", "logits": logits, "said": said},
    }


def test_a_run_whose_directory_is_gone_is_explained(open_page, site):
    run = site.trigger("cleaned")
    write_ranks(run, Size(steps=1))
    page = show(open_page(), "cleaned", "ranks")
    expect(page.get_by_role("region", name="Ranks")).to_be_visible()
    shutil.rmtree(run.path)
    page.reload()
    expect(page.get_by_text("No task of this run has written anything yet")).to_be_visible()
