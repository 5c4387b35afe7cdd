"""What holds for every part of the run page, in a real browser: text stays text, nobody is left out, nothing leaks."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from benchmarks.run_page.synthetic_run import Size, write_run
from shardline.run.failures import failure_file
from tests.plugins.conftest import DAG, SCRIPT, show


def test_text_with_a_script_in_it_is_shown_as_text(open_page, site):
    """A parameter, a network, a log line, a failure, a class, a tensor: everything that a user or a run can name."""
    run = site.trigger("hostile")
    write_run(run.path, Size(steps=40, parameters=1, log_lines=1))
    config = json.loads(run.config_file.read_text()) | {"data_directory": SCRIPT, "network": SCRIPT}
    run.config_file.write_text(json.dumps(config))
    report = json.loads(run.report_file.read_text())
    report["classes"][0]["label"] = SCRIPT
    run.report_file.write_text(json.dumps(report | {"failures": [SCRIPT]}))
    run.rank_log(0).write_text(SCRIPT)
    (run.rank_log(1).parent / "failure.json").write_text(json.dumps({"error": SCRIPT, "message": SCRIPT}))
    merge = json.loads(run.merge_file.read_text())
    merge["tensors"][0]["name"] = merge["output"][0]["name"] = SCRIPT
    run.merge_file.write_text(json.dumps(merge))
    record = failure_file(run, "train")
    record.parent.mkdir()
    record.write_text(json.dumps({"task": SCRIPT, "error": SCRIPT, "message": SCRIPT, "time": 1}))
    page = open_page()
    for tab in ("overview", "training", "ranks", "shards", "merge", "validation"):
        show(page, "hostile", tab)
        if tab == "ranks":
            page.get_by_role("button", name="Log of rank 0").click()
            expect(page.locator("pre.log")).to_have_text(SCRIPT)
        expect(page.get_by_role("alert").first).to_contain_text(SCRIPT)
        assert page.locator("img[src=x]").count() == 0
        assert page.evaluate("window.hacked") is None
    page.goto("/run-page/")
    expect(page.get_by_role("row", name="hostile")).to_contain_text(SCRIPT)


def test_a_run_id_with_a_script_in_it_is_shown_as_text(browser, site):
    context = browser.new_context(base_url=site.address)
    context.add_cookies([{"name": "_token", "value": site.token("vera"), "url": site.address}])
    page = context.new_page()
    page.goto(f"/run-page/dags/{DAG}/run?run_id={SCRIPT}")
    expect(page.get_by_role("alert").last).to_contain_text(f"there is no run {SCRIPT!r}")
    assert page.evaluate("window.hacked") is None
    context.close()


def test_the_policy_stops_a_script_that_got_in(browser, site, finished_run):
    """Were text ever taken for HTML, the policy would still keep the script from running."""
    context = browser.new_context(base_url=site.address)
    context.add_cookies([{"name": "_token", "value": site.token("vera"), "url": site.address}])
    page = show(context.new_page(), finished_run, "overview")
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", SCRIPT)
    page.evaluate(
        "() => { const s = document.createElement('script'); s.text = 'hacked = true'; document.body.append(s) }"
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    context.close()


def test_nothing_is_fetched_from_elsewhere(open_page, site, finished_run):
    page = open_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for tab in ("training", "shards", "validation"):
        show(page, finished_run, tab)
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((site.address, "data:"))] == []


def test_tabs_are_walked_by_keyboard(open_page, finished_run):
    page = show(open_page(), finished_run, "overview")
    page.get_by_role("tab", name="Overview").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Training")).to_be_focused()
    expect(page.get_by_role("tab", name="Training")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Versions")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Overview")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tabpanel")).to_be_focused()


def test_every_control_has_a_name_and_every_picture_an_alternative(open_page, finished_run):
    page = open_page()
    for tab in ("overview", "training", "ranks", "shards", "merge", "validation", "versions"):
        show(page, finished_run, tab)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, a, [role=region], [role=img], img")]
                .filter((node) => !(node.ariaLabel || node.alt || node.textContent.trim() || node.labels?.length))
                .map((node) => node.outerHTML)"""
        )
        assert nameless == [], tab


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_both_themes_and_a_narrow_window(open_page, finished_run, theme, width):
    page = open_page(theme=theme, width=width)
    for tab in ("overview", "training", "ranks", "shards", "merge", "validation"):
        show(page, finished_run, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 20, 24)"}[theme]


def test_airflows_own_theme_switch_counts_more_than_the_system(open_page, finished_run):
    page = show(open_page(theme="light"), finished_run, "overview")
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_login_that_expired_is_said(open_page, finished_run, site, browser):
    context = browser.new_context(base_url=site.address)
    context.add_cookies([{"name": "_token", "value": site.token("vera"), "url": site.address}])
    page = show(context.new_page(), finished_run, "overview")
    context.clear_cookies()
    page.get_by_role("tab", name="Merge").click()
    expect(page.get_by_role("alert").last).to_contain_text("Your login has expired")
    context.close()


def test_modules_are_small():
    static = Path(__file__).parents[2] / "plugins" / "run_page" / "static"
    lengths = {path.name: len(path.read_text().splitlines()) for path in static.glob("*.js")}
    assert max(lengths.values()) < 250, lengths


def test_one_of_something_is_told_in_the_singular(open_page, site):
    run = site.trigger("one_of_each")
    write_run(run.path, Size(steps=1, parameters=1, log_lines=1))
    with run.metrics_file.open("a") as metrics:
        metrics.write("{damaged\n")
    merge = json.loads(run.merge_file.read_text())
    merge["tensors"] = [merge["tensors"][0] | {"slices_compared": 1}]
    merge["inputs"]["files"] = merge["inputs"]["files"][:1]
    merge["proof"] |= {"tensors": 1, "slices_compared": 1}
    run.merge_file.write_text(json.dumps(merge))
    page = show(open_page(), "one_of_each", "merge")
    text = page.locator("main").inner_text()
    assert "1 tensor was read again and compared with 1 slice, " in text
    assert "1 file, " in text
    assert "1 tensor, options and versions" in text
    text = show(page, "one_of_each", "training").locator("main").inner_text()
    assert "; 1 step, drawn from 1 point." in text
    assert "1 line of metrics.jsonl damaged, and left out." in text
