"""The curves of a run's page in a real browser: what is drawn, and what is said where nothing can be."""

import io
import json
import math

import pytest
from PIL import Image
from playwright.sync_api import expect

from benchmarks.run_page.synthetic_run import Size, metric_records, write_ranks, write_run
from shardline.settings.run_config import RunConfig
from tests.plugins.conftest import DAG, show


def test_the_loss_curve_is_drawn_smoothed_and_compared(open_page, site, finished_run):
    other = "manual__other"
    if not site.home.run(DAG, other).exists():
        write_run(site.trigger(other).path, Size(steps=1500, log_lines=1), seed=7)
    page = show(open_page(), finished_run, "training")
    expect(page.locator(".bk-Figure canvas").first).to_be_visible()
    expect(page.locator("#curve-summary")).to_contain_text("3,000 steps, drawn from 1,2")
    before = page.locator(".chart").screenshot()
    page.get_by_label("Smoothing").fill("0")
    page.get_by_text("Compare with other runs").click()
    with page.expect_response(lambda answer: "metrics" in answer.url and other in answer.url):
        page.get_by_role("checkbox", name=other).check()
    expect(page.get_by_role("list", name="Curves").get_by_role("listitem")).to_have_count(2)
    page.get_by_label("Curve", exact=False).first.select_option("gradient_norm")
    expect(page.locator("#curve-summary")).to_contain_text("Gradient norm:")
    page.get_by_role("button", name=f"Remove {other}").click()
    expect(page.get_by_role("list", name="Curves").get_by_role("listitem")).to_have_count(1)
    assert page.locator(".chart").screenshot() != before


def test_the_loss_on_held_out_samples_stands_beside_that_of_training(open_page, site):
    run = site.trigger("held-out")
    write_ranks(run, Size(steps=30))
    run.write_config(RunConfig(epochs=1, validate_every_steps=10))
    records = [
        dict(record) | ({"validation_loss": 0.5} if record["step"] % 10 == 0 else {})
        for record in metric_records(Size(steps=30), 1)
    ]
    run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = show(open_page(), "held-out", "training")
    expect(page.get_by_role("list", name="Curves").get_by_role("listitem").nth(1)).to_have_text(
        "A, on held-out samples: 0.5"
    )
    expect(page.locator(".problem")).to_have_count(0)


def curve_of(site, run_id, losses):
    """A run whose ranks have told these losses by step."""
    run = site.trigger(run_id)
    write_ranks(run, Size(steps=0, log_lines=3))
    run.write_config(RunConfig(epochs=1))
    rows = [{"step": step, "epoch": 1, "loss": loss} for step, loss in losses.items()]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def drawn(page) -> int:
    """How many pixels of the chart have the colour of the first curve."""
    image = Image.open(io.BytesIO(page.locator(".chart").screenshot())).convert("RGB")
    wanted = (0x2F, 0x8F, 0xC4)
    return sum(
        count
        for count, colour in image.getcolors(image.width * image.height)
        if max(abs(one - other) for one, other in zip(colour, wanted, strict=True)) < 8
    )


def test_a_single_step_is_a_point_above_whole_steps(open_page, site):
    curve_of(site, "one-step", {1: 2.3})
    page = show(open_page(), "one-step", "training")
    expect(page.locator("#curve-summary")).to_contain_text("Loss: 2.3 at step 1; lowest 2.3, highest 2.3; 1 step")
    expect(page.locator(".bk-Figure canvas").first).to_be_visible()
    while drawn(page) <= 10:
        page.wait_for_timeout(200)
    assert page.evaluate(TICKS) == [0, 1, 2]


# Where the labels of the only chart's axis of steps stand.
TICKS = """() => {
    const [plot] = Bokeh.index;
    const axis = [...plot.children()].find((view) => view.model.axis_label === "step");
    return axis.tick_coords.major[0];
}"""


@pytest.mark.parametrize(
    ("name", "losses", "said"),
    [
        ("all-equal-and-tiny", {1: 1e-12, 2: 1e-12, 3: 1e-12}, "Loss: 1.00e-12 at step 3"),
        ("all-equal-and-huge", {1: 1e300, 2: 1e300, 3: 1e300}, "Loss: 1.00e+300 at step 3"),
        ("alone-beside-nan", {1: math.nan, 2: 0.5, 3: math.inf}, "Loss: 0.5 at step 2; lowest 0.5, highest 0.5"),
        ("far-steps", {12_000_000_000: 0.5}, "Loss: 0.5 at step 12,000,000,000"),
    ],
)
def test_a_curve_of_unusual_numbers_is_drawn(open_page, site, name, losses, said):
    curve_of(site, name, losses)
    page = show(open_page(), name, "training")
    expect(page.locator("#curve-summary")).to_contain_text(said)
    while drawn(page) <= 5:
        page.wait_for_timeout(200)


def test_a_curve_without_any_number_says_so(open_page, site):
    curve_of(site, "no-number", {1: math.nan, 2: math.inf})
    page = show(open_page(), "no-number", "training")
    expect(page.get_by_role("tabpanel")).to_contain_text("There is no number to draw.")
    expect(page.locator("#curve-summary")).to_contain_text("Loss: no number at any step in view; 2 steps")
    expect(page.locator(".problem")).to_contain_text("training diverged")


def test_a_logarithmic_axis_says_what_has_no_place_on_it(open_page, site):
    curve_of(site, "all-zero", {1: 0.0, 2: 0.0})
    page = show(open_page(), "all-zero", "training")
    expect(page.locator(".bk-Figure canvas").first).to_be_visible()
    page.get_by_role("checkbox", name="Logarithmic").check()
    expect(page.get_by_role("tabpanel")).to_contain_text("Nothing is above zero: there is nothing to draw")
    expect(page.locator("#curve-summary")).to_contain_text("a logarithmic axis has no zero: 2 points.")
    page.get_by_role("checkbox", name="Logarithmic").uncheck()
    expect(page.locator(".bk-Figure canvas").first).to_be_visible()
    expect(page.locator("#curve-summary")).not_to_contain_text("logarithmic")
    curve_of(site, "some-zero", {1: 1.0, 2: 0.0, 3: 0.5})
    page = show(page, "some-zero", "training")
    page.get_by_role("checkbox", name="Logarithmic").check()
    expect(page.locator("#curve-summary")).to_contain_text("a logarithmic axis has no zero: 1 point.")
    while drawn(page) <= 10:
        page.wait_for_timeout(200)


def test_zooming_in_asks_for_the_steps_in_view(open_page, finished_run):
    page = show(open_page(), finished_run, "training")
    chart = page.locator(".bk-Figure canvas").first.bounding_box()
    page.mouse.move(chart["x"] + chart["width"] / 2, chart["y"] + chart["height"] / 2)
    page.locator(".bk-Figure [title*='Wheel Zoom']").or_(page.locator(".bk-tool-icon-wheel-zoom")).first.click()
    page.mouse.move(chart["x"] + chart["width"] / 2, chart["y"] + chart["height"] / 2)
    with page.expect_response(lambda answer: "first=" in answer.url and "last=" in answer.url) as zoomed:
        page.mouse.wheel(0, -800)
    steps = zoomed.value.json()["steps"]
    assert 0 < steps[0] < steps[-1] < 3000
