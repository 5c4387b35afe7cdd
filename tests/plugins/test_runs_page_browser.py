"""The list of runs in a real browser, and the comparison of those that are ticked."""

import pytest
from playwright.sync_api import expect

from benchmarks.run_page.synthetic_run import Size, write_run
from tests.plugins.conftest import DAG, PASSWORDS


def test_runs_are_sorted_ticked_and_compared_at_an_address_that_can_be_shared(open_page, site, finished_run):
    run_id = "manual__slower"
    write_run(site.trigger(run_id).path, Size(steps=1500, log_lines=1), seed=7, learning_rate=0.9)
    page = open_page()
    page.goto("/run-page/")
    names = page.get_by_role("region", name="Runs").locator("tbody th")
    page.get_by_role("button", name="Learning rate").click()
    page.get_by_role("button", name="Learning rate").click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Learning rate")
    expect(names.first).to_have_text(run_id)
    expect(page.get_by_role("row", name=run_id)).to_contain_text("1,500")
    expect(page.get_by_text("Tick two runs or more")).to_be_visible()
    for one in (finished_run, run_id):
        page.get_by_label(f"Compare {one}").check()
    page.get_by_role("link", name="Compare 2 runs").click()
    differing = page.get_by_role("region", name="Parameters that differ")
    expect(differing.locator("tbody th")).to_have_text(["epochs", "learning_rate"])
    expect(differing.get_by_role("row", name="learning_rate")).to_contain_text("0.0010.9")
    expect(page.get_by_role("region", name="What became of them")).to_contain_text("94.8 %")
    expect(page.get_by_role("list", name="Curves").get_by_role("listitem")).to_have_count(2)
    expect(page.locator(".bk-Figure canvas").first).to_be_visible()
    for one in (finished_run, run_id):
        expect(page.get_by_role("heading", name=f"Confusion matrix of {one}")).to_be_visible()
    address = page.get_by_label("The address of this comparison").input_value()
    other = open_page()
    other.goto(address)
    expect(other.get_by_role("region", name="Parameters that differ")).to_contain_text("learning_rate")


def test_a_comparison_shows_nothing_of_a_run_that_the_user_may_not_see(browser, site, finished_run):
    context = browser.new_context(base_url=site.address)
    context.add_cookies([{"name": "_token", "value": site.token("otto"), "url": site.address}])
    page = context.new_page()
    page.goto(f"/run-page/compare?run={DAG}/a&run={DAG}/{finished_run.replace('+', '%2B')}")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)
    context.close()


@pytest.mark.parametrize("user", PASSWORDS)
def test_the_list_of_runs_is_each_users_own(open_page, finished_run, user):
    page = open_page(user)
    page.goto("/run-page/")
    if user == "otto":
        expect(page.get_by_text("No run has been started yet.")).to_be_visible()
        return
    page.get_by_role("link", name=finished_run).click()
    expect(page.get_by_role("heading", name=finished_run)).to_be_visible()
    page.get_by_role("link", name="All runs").click()
    expect(page.get_by_role("heading", name="Sharded runs")).to_be_visible()
