"""How parameters look in the trigger form."""

import pytest

from dags.form import form
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.run_config import RunConfig

FORMS = (RunConfig, MergeCheckpointConfig, HousekeepingConfig)


def test_the_help_says_the_default_in_the_forms_own_words():
    fields = form(RunConfig)
    assert fields["epochs"].schema["description_md"] == "How often training goes through the data. Default: 5."
    assert fields["data_source"].schema["description_md"].endswith("Default: Embedded: comes with the installation.")
    assert fields["approval"].schema["description_md"].endswith("Default: off.")
    assert "Default" not in fields["hostfile"].schema["description_md"], "nothing is none"


def test_other_defaults_are_said_as_well():
    fields = form(RunConfig, {"epochs": 2})
    assert fields["epochs"].value == 2
    assert fields["epochs"].schema["description_md"].endswith("Default: 2.")


@pytest.mark.parametrize("parameters", FORMS)
def test_every_choice_has_one_label_at_most_and_every_label_is_a_choice(parameters):
    for name, field in form(parameters).items():
        labels = field.schema.get("values_display", {})
        assert set(labels) <= set(field.schema.get("enum", [])), name
        assert len(set(labels.values())) == len(labels), name


@pytest.mark.parametrize("parameters", FORMS)
def test_the_form_accepts_what_it_shows(parameters):
    for field in form(parameters).values():
        field.resolve()
