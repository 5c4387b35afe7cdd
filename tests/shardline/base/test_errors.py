"""The tree of errors: what each class is called on the way to another process, and its exit code."""

import pytest

from shardline.base import errors
from shardline.base.errors import ShardlineError, class_of_kind, kind_of

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ShardlineError)]
EXIT_CODES = {
    "ConfigError": 2,
    "NotSigned": 3,
    "SignedByAnother": 4,
    "ChangedSinceSigning": 5,
    "Stopped": 75,
    "ChampionStays": 99,
    "AlreadyAVersion": 99,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_is_found_again_by_its_name(kind):
    assert class_of_kind(kind_of(kind("a message"))) is kind


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_has_the_exit_code_that_who_starts_the_process_understands(kind):
    assert kind.exit_code == EXIT_CODES.get(kind.__name__, 1)


def test_a_class_of_others_is_the_one_of_ours_that_it_is_below():
    mine = type("MissingShard", (errors.DatasetError,), {})
    assert kind_of(mine("a message")) == "DatasetError"
    assert kind_of(type("ConfigError", (ValueError,), {})("a message")) == ""
    assert kind_of(KeyError("a")) == ""


@pytest.mark.parametrize("name", ["", "ValueError", "Exception", "kind_of", "missingshard"])
def test_another_name_is_no_class_of_ours(name):
    assert class_of_kind(name) is None
