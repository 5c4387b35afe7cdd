"""The page of a described training's run in a real browser: what is known is shown, what is not is absent."""

import json
import os
import re
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from scripts.local_airflow import PROJECT
from shardline.run.adopting import adopter_of
from shardline.run.described_run import prepare_training
from shardline.run.directory import Home
from shardline.run.slices_to_merge import merge_run
from shardline.settings.training_config import TrainingConfig
from tests.plugins.conftest import show
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors

DESCRIPTION = """
name = "described"
command = ["true", "{rate}"]
ranks = 8
working_directory = "{run_directory}"
[parameters.rate]
type = "number"
default = 0.5
[slices]
files = "output/rank_*/*.ckpt"
strategies = "strategy/*.ckpt"
"""


@pytest.fixture(scope="module")
def trigger(site, tmp_path_factory):
    """Start a run of a described training, as Airflow and its first task do."""
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.utils.session import create_session

    folder = tmp_path_factory.mktemp("trainings")
    (folder / "described.toml").write_text(DESCRIPTION)
    with pytest.MonkeyPatch.context() as patch, create_session() as session:
        patch.setenv("SHARDLINE_TRAININGS", str(folder))
        bag = DagBag(PROJECT / "dags" / "trainings.py")
        assert not bag.import_errors
        sync_bag_to_db(bag, "dags-folder", None, session=session)

    def start(run_id: str) -> SimpleNamespace:
        run = site.trigger(run_id, dag_id="described", rate=0.25)
        prepare_training(run, Home(site.home.path), folder / "described.toml", json.dumps({"rate": 0.25}), os.environ)
        return SimpleNamespace(run=run, config=TrainingConfig.model_validate_json(run.config_file.read_text()))

    return start


def test_nothing_of_a_run_that_has_just_begun_is_broken(open_page, trigger):
    trigger("begun")
    page = open_page()
    for tab in ("overview", "training", "ranks", "shards", "merge", "validation", "versions"):
        show(page, "begun", tab, dag_id="described")
        expect(page.get_by_role("alert").filter(has_text=re.compile(r"\S"))).to_have_count(0)
        text = page.locator("main").inner_text()
        assert not [word for word in ("undefined", "NaN", "null", "[object") if word in text], (tab, text)


def test_what_the_program_told_and_saved_is_shown(open_page, site, trigger):
    started = trigger("saved")
    run = started.run
    steps = [{"step": step, "epoch": 1, "loss": 2 / step} for step in range(1, 21)]
    run.metrics_file.write_text("".join(json.dumps(step) + "\n" for step in steps))
    for rank in range(8):
        log = run.rank_log(rank)
        log.parent.mkdir(parents=True)
        log.write_text(f"the last word of rank {rank}\n")
        (log.parent / "started.json").write_text(json.dumps({"rank": rank, "pid": 7, "host": "here", "time": 1.0}))
        (log.parent / "finished.json").write_text(json.dumps({"rank": rank}))
    save_shards(run.checkpoints, tensors())
    (run.path / "strategy").mkdir()
    save_strategy(run.path / "strategy" / "a.ckpt")
    adopter_of(run, started.config, print).look(0, has_ended=True)
    merge_run(run)
    site.set_state("saved", "success", prepare_dataset="success", train="success", merge="success")
    page = open_page()
    text = {}
    for tab in ("overview", "training", "ranks", "shards", "merge", "validation"):
        show(page, "saved", tab, dag_id="described")
        expect(page.get_by_role("alert").filter(has_text=re.compile(r"\S"))).to_have_count(0)
        text[tab] = page.locator("main").inner_text()
    assert "the last word of rank 5" in text["ranks"]
    assert "layer1.weight" in text["shards"]
    assert "6 tensors were read again and compared with 48 slices" in text["merge"]
    show(page, "saved", "overview", dag_id="described")
    page.locator("summary", has_text="Parameters").click()
    expect(page.get_by_role("row", name="rate 0.25")).to_be_visible()
    show(page, "saved", "training", dag_id="described")
    expect(page.locator(".bk-Figure canvas").first).to_be_visible()
