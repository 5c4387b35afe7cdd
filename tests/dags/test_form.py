"""How parameters look in the trigger form."""

import json

import pytest
from airflow.sdk.exceptions import ParamValidationError

from dags.form import form
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.presets import preset_parameters
from shardline.settings.run_config import RunConfig

FORMS = (RunConfig, MergeCheckpointConfig, HousekeepingConfig)


def test_the_help_says_the_default_in_the_forms_own_words():
    fields = form(RunConfig)
    assert fields["batch_size"].schema["description_md"] == "Samples a step, over all ranks together. Default: 32."
    assert fields["data_source"].schema["description_md"].endswith("Default: Embedded: comes with the installation.")
    assert fields["approval"].schema["description_md"].endswith("Default: off.")
    assert "Default" not in fields["hostfile"].schema["description_md"], "nothing is none"


def test_other_defaults_are_said_as_well():
    fields = form(RunConfig, {"epochs": 2})
    assert fields["epochs"].value == 2
    assert (
        fields["epochs"]
        .schema["description_md"]
        .endswith("Default: 2. Empty: 5; with the preset **quick** 1, **tutorial** 10.")
    )
    assert form(RunConfig, {"approval": True})["approval"].schema["description_md"].endswith("Default: on. Empty: off.")


def test_what_a_preset_sets_stands_empty_and_says_what_it_becomes():
    fields = form(RunConfig)
    assert {name for name, field in fields.items() if field.value is None} >= {*preset_parameters(), "model_name"}
    assert fields["epochs"].schema["description_md"].endswith("Empty: 5; with the preset **quick** 1, **tutorial** 10.")


@pytest.mark.parametrize("parameters", FORMS)
def test_no_number_stands_in_a_field_that_would_change_it_and_numbers_are_taken_as_numbers_too(parameters):
    kinds = {name: {"integer", "number"} & set(types(schema)) for name, schema in parameters.form_schema().items()}
    numbers = {name: kind.pop() for name, kind in kinds.items() if kind}
    for name, field in form(parameters).items():
        assert (field.schema["type"][0] in ("integer", "number")) is False, name
        if name in numbers:
            assert field.schema["type"] == ["string", numbers[name], "null"], name
            assert field.schema["examples"], "without them, Airflow shows a field of JSON"
            good = 1 if field.schema["examples"] == [None] else field.schema["examples"][0]
            assert field.resolve(good) == good
            assert field.resolve(str(good)) == str(good)
            for wrong in ("abc", "", "1,5", "0x10", "1_0", "nan"):
                with pytest.raises(ParamValidationError):
                    field.resolve(wrong)


@pytest.mark.parametrize("parameters", FORMS)
def test_no_field_looks_required_and_an_empty_one_is_the_default(parameters):
    fields = form(parameters)
    for field in fields.values():
        assert "null" in field.schema["type"]
        field.resolve(None)
    given = {"shards": "/x"} if parameters is MergeCheckpointConfig else {}
    emptied = dict.fromkeys(fields) | given
    assert parameters.from_json(json.dumps(emptied)) == parameters(**given)


def types(schema):
    return schema["type"] if isinstance(schema["type"], list) else [schema["type"]]


@pytest.mark.parametrize("parameters", FORMS)
def test_every_choice_has_one_label_at_most_and_every_label_is_a_choice(parameters):
    for name, field in form(parameters).items():
        labels = field.schema.get("values_display", {})
        assert set(labels) <= {"null", *field.schema.get("enum", [])}, name
        assert len(set(labels.values())) == len(labels), name


@pytest.mark.parametrize("parameters", FORMS)
def test_the_form_accepts_what_it_shows(parameters):
    for field in form(parameters).values():
        field.resolve()
