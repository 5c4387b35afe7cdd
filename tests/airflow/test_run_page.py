"""The run page inside a running Airflow: live while ranks train, when one is killed, and when the model is not good."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import FrameLocator, expect

from shardline.run.directory import Home, RunDirectory
from tests.airflow.conftest import SCREENSHOTS, end_soon, endless_runs, suspended_ranks

DAG = "sharded_training"


@pytest.fixture(scope="module", autouse=True)
def tall(page) -> Iterator[None]:
    """A window in which most of the page can be seen below Airflow's own heading."""
    size = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 1160})
    yield
    page.set_viewport_size(size)


@pytest.fixture(scope="module")
def screenshot(page):
    """As everywhere, but without waiting for silence on the line, since this page goes on asking."""

    def save(name: str) -> None:
        if SCREENSHOTS:
            page.evaluate("document.activeElement.blur()")
            page.wait_for_timeout(1000)
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")

    return save


@pytest.fixture(scope="module")
def trained(api, page, server, small, screenshot) -> str:
    """The id of a run whose page was watched while it trained on four ranks, lost one, resumed, and ended well."""
    with endless_runs(api, small) as start:
        run_id = start(world_size=4)
        directory = RunDirectory(Home(server.shared).run(DAG, run_id))
        frame = open_tab(page, run_id)
        frame.get_by_role("tab", name="Training").click()
        while not list(directory.checkpoints.glob("shard_set-*.json")):
            page.wait_for_timeout(200)
        with suspended_ranks(directory, 4) as ranks:
            expect(frame.locator("#run-summary")).to_contain_text("step ")
            expect(frame.locator(".bk-Figure canvas").first).to_be_visible()
            seen = step_of(frame)
        while step_of(frame) <= seen:
            page.wait_for_timeout(200)
        screenshot("run-page-training")
        frame.get_by_role("tab", name="Ranks").click()
        expect(frame.get_by_role("row", name="2 running")).to_be_visible()
        ranks[2].kill()
        end_soon(directory)  # the next try begins 10 seconds later
        expect(frame.locator(".failure")).to_contain_text("train failed, and is tried again: rank 2")
        screenshot("run-page-killed-rank")
        assert api.wait_for_run(DAG, run_id) == "success"
        expect(frame.locator("#run-summary")).to_contain_text("success")
        expect(frame.locator(".failure")).to_have_count(0)
    return run_id


def open_tab(page, run_id, task="") -> FrameLocator:
    """The page of the run, in its tab of Airflow's user interface."""
    page.goto(f"/dags/{DAG}/runs/{run_id}{task}")
    page.get_by_role("link", name="Sharded run", exact=True).press("Enter")
    return page.frame_locator("iframe[title='Sharded run']")


def step_of(frame) -> int:
    words = frame.locator("#run-summary").inner_text().replace(",", "").split()
    return int(words[words.index("step") + 1])


def test_the_earlier_try_of_the_killed_rank_can_still_be_read(trained, page):
    frame = open_tab(page, trained, "/tasks/train")
    frame.get_by_role("tab", name="Ranks").click()
    frame.get_by_label("Try").select_option(label="train, try 1")
    expect(frame.get_by_role("row", name="2 failed")).to_contain_text("ended by signal 9")
    frame.get_by_role("button", name="Log of rank 2").click()
    expect(frame.locator("pre.log")).to_contain_text("loss is")


PARTS = {
    "train": ("Training", "drawn from"),
    "merge": ("Merge", "replicas included: all equal"),
    "validate": ("Validation", "Good enough to be promoted"),
    "promote": ("Versions", "this run"),
}


@pytest.mark.parametrize("task", PARTS)
def test_a_tasks_tab_opens_at_its_part_of_the_page(trained, page, screenshot, task):
    tab, said = PARTS[task]
    frame = open_tab(page, trained, f"/tasks/{task}")
    expect(frame.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
    expect(frame.get_by_role("tabpanel")).to_contain_text(said)
    screenshot(f"run-page-{task}")


def test_the_shard_map_is_that_of_the_ranks(trained, page, screenshot):
    frame = open_tab(page, trained)
    frame.get_by_role("tab", name="Shard map").click()
    frame.get_by_role("button", name="layer1.weight", exact=True).click()
    expect(frame.locator(".detail")).to_contain_text("784 × 512")
    screenshot("run-page-shards")


def test_the_navigation_lists_the_runs(trained, page):
    page.goto("/plugin/sharded-runs")
    runs = page.frame_locator("iframe[title='Training']")
    row = runs.get_by_role("row", name=trained)
    expect(row).to_contain_text("success")
    row.get_by_role("link").click()
    expect(page.frame_locator("iframe[title='Training']").get_by_role("heading", name=trained)).to_be_visible()


@pytest.fixture(scope="module")
def refused_run(api, small) -> str:
    """The id of a run whose model is not good enough."""
    run_id = api.trigger(DAG, small | {"min_accuracy": 1.0, "epochs": 1})
    assert api.wait_for_run(DAG, run_id) == "failed"
    return run_id


def test_a_model_that_is_not_good_enough_says_so(refused_run, page):
    frame = open_tab(page, refused_run, "/tasks/validate")
    expect(frame.locator(".failure")).to_contain_text("validate failed:")
    expect(frame.locator(".failure")).to_contain_text("expected an accuracy of at least 1.0")
    expect(frame.get_by_role("tabpanel")).to_contain_text("Confusion matrix")
    expect(frame.locator("#run-summary")).to_contain_text("failed")


def test_two_runs_are_compared(trained, refused_run, page, screenshot):
    size = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 1560})
    page.goto("/plugin/sharded-runs")
    runs = page.frame_locator("iframe[title='Training']")
    for run_id in (trained, refused_run):
        runs.get_by_label(f"Compare {run_id}").check()
    runs.get_by_role("link", name="Compare 2 runs").click()
    expect(runs.get_by_role("region", name="Parameters that differ")).to_contain_text("min_accuracy")
    expect(runs.locator(".bk-Figure canvas").first).to_be_visible()
    for run_id in (trained, refused_run):
        expect(runs.get_by_role("heading", name=f"Confusion matrix of {run_id}")).to_be_visible()
    screenshot("runs-compared")
    page.set_viewport_size(size)


def test_in_the_dark_and_on_a_narrow_window(trained, page, screenshot):
    """By itself: Airflow's own page does not fit a telephone."""
    size = page.viewport_size
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.set_viewport_size({"width": 480, "height": 1160})
    page.goto(f"/run-page/dags/{DAG}/run?run_id={trained.replace('+', '%2B')}#shards")
    expect(page.locator(".tensor")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    screenshot("run-page-narrow")
    page.evaluate("localStorage.removeItem('theme')")
    page.set_viewport_size(size)


def test_the_plugin_is_loaded_and_nothing_beside_it_fails(api):
    assert api.get("/plugins/importErrors")["import_errors"] == []
