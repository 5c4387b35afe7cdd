"""The trigger form in a real browser: what is typed is what is sent, what is refused is said where the button is."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from shardline.base.errors import ConfigError
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.parameters import Parameters
from shardline.settings.run_config import RunConfig
from tests.patience import PATIENCE_MS

FORMS: dict[str, type[Parameters]] = {"sharded_training": RunConfig, "housekeeping": HousekeepingConfig}
TYPED = ("-1", "3e-4", "abc", "99999", "1e999", "0.30000000000000004", "007")


def numbers(parameters: type[Parameters]) -> dict[str, str]:
    """Every number of a form, and the section that it stands in."""
    kinds = {"integer", "number"}
    return {
        name: schema.get("section", "Run Parameters")
        for name, schema in parameters.form_schema().items()
        if kinds & set(schema["type"] if isinstance(schema["type"], list) else [schema["type"]])
    }


@pytest.fixture(scope="module")
def page(browser, site) -> Iterator[Page]:
    """A page of somebody who may trigger runs."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, base_url=site.address)
    context.set_default_timeout(PATIENCE_MS)
    context.add_cookies([{"name": "_token", "value": site.token("ada"), "url": site.address}])
    yield context.new_page()
    context.close()


@pytest.fixture
def form(page) -> Callable[[str], Locator]:
    """Open the form of a DAG."""

    def open_form(dag_id: str) -> Locator:
        page.goto(f"/dags/{dag_id}")
        page.get_by_role("button", name="Trigger Dag").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("heading", name=f"Trigger Dag - {dag_id}")).to_be_visible()
        expect(dialog.get_by_test_id("trigger-dag-submit")).to_be_visible()
        return dialog

    return open_form


def field(form: Locator, name: str) -> Locator:
    return form.locator(f"[name=element_{name}]")


def unfold(form: Locator, section: str) -> None:
    """Have the section open, whose opening folds the one that was."""
    heading = form.get_by_role("button", name=section, exact=True)
    if heading.get_attribute("aria-expanded") != "true":
        heading.click()


def press_trigger(page: Page, form: Locator) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Press the button: the parameters that the browser sends, the answer's status and document."""
    button = form.get_by_test_id("trigger-dag-submit")
    with page.expect_response(
        lambda answer: answer.url.endswith("/dagRuns") and answer.request.method == "POST"
    ) as got:
        button.click()
    return got.value.request.post_data_json["conf"], got.value.status, got.value.json()


@pytest.mark.parametrize("dag_id", FORMS)
def test_every_number_is_sent_as_it_is_typed_and_a_wrong_one_is_refused_in_its_place(page, form, dag_id):
    """All texts are typed, each number sees one of them."""
    dialog, names = form(dag_id), numbers(FORMS[dag_id])
    typed = dict(zip(names, itertools.cycle(TYPED)))
    for name, text in typed.items():
        unfold(dialog, names[name])
        field(dialog, name).fill(text)
        field(dialog, name).blur()
    sent, status, answer = press_trigger(page, dialog)
    assert {name: sent[name] for name in names} == typed
    assert status == 400
    with pytest.raises(ConfigError) as refused:
        FORMS[dag_id].from_json(json.dumps(sent))
    assert answer["detail"] == str(refused.value)
    assert len(names) < len(TYPED) or answer["detail"].count("\n") > len(TYPED)


def test_a_good_number_reaches_the_run(page, form):
    dialog = form("sharded_training")
    for name, text in (("world_size", "4"), ("epochs", "2"), ("learning_rate", "3e-4")):
        field(dialog, name).fill(text)
    sent, status, answer = press_trigger(page, dialog)
    assert status == 200
    config = RunConfig.from_json(json.dumps(answer["conf"]))
    assert config == RunConfig(world_size=4, epochs=2, learning_rate=3e-4)
    assert sent["batch_size"] == 32, "what nobody touched is sent as the number that it is"


def test_what_does_not_go_together_is_refused_above_the_button(page, form):
    dialog = form("sharded_training")
    field(dialog, "network").fill("gpt")
    field(dialog, "world_size").fill("2")
    assert press_trigger(page, dialog)[1] == 400
    said, button = dialog.get_by_test_id("error-alert"), dialog.get_by_test_id("trigger-dag-submit")
    expect(said).to_contain_text("expected world_size to be a multiple of tensor_parallel")
    expect(said).to_be_in_viewport()
    below = button.bounding_box()["y"] - said.bounding_box()["y"] - said.bounding_box()["height"]
    assert 0 <= below < 40
    expect(page.locator("[data-scope=toast][data-part=root]")).to_have_count(1)  # it says the same, above the button
    expect(page.locator("[data-scope=toast][data-part=root]")).to_be_hidden()
    field(dialog, "world_size").fill("4")
    assert press_trigger(page, dialog)[1] == 200


def test_a_preset_contradicts_nothing_that_the_form_shows(page, form):
    dialog = form("sharded_training")
    dialog.get_by_role("combobox", name="Preset").click()
    page.get_by_role("option", name="Quick CPU check: 4 cards, 1 epoch").click()
    expect(field(dialog, "world_size")).to_have_value("")
    expect(dialog.get_by_text("Empty: 8; with the preset quick 4.")).to_be_visible()
    expect(dialog.get_by_text("Empty: 5; with the preset quick 1, tutorial 10.")).to_be_visible()
    _, status, answer = press_trigger(page, dialog)
    config = RunConfig.from_json(json.dumps(answer["conf"]))
    assert (status, config.world_size, config.epochs, config.min_accuracy) == (200, 4, 1, 0.5)


@pytest.mark.parametrize("dag_id", ["sharded_training", "merge_checkpoint", "housekeeping"])
def test_no_field_looks_required(form, dag_id):
    dialog = form(dag_id)
    expect(dialog.locator("[id^=element_]").first).to_be_visible()
    assert dialog.locator("[data-part=required-indicator], .chakra-field__requiredIndicator").count() == 0
