import pytest

from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.file_index import Schema, TensorHeader
from shardline.checkpoint.formats.tensor_types import BFLOAT16, BY_NAME, FLOAT32, TEXT
from shardline.checkpoint.shards.selection import Selection, selection_from, selection_record

NAMES = ["a.weight", "a.scale", "moment1.a.weight", "teacher.a.weight", "moment1.gone", "global_step", "note"]
SHAPES = {"global_step": (), "a.scale": ()}
SCHEMA = Schema.of(
    [TensorHeader(name, TEXT if name == "note" else FLOAT32, SHAPES.get(name, (2, 2))) for name in NAMES]
)


def choose(selection: Selection, known: set[str] | None = frozenset({"a.weight", "a.scale"})) -> list[str]:
    return selection.choose(NAMES, known, [SCHEMA])


def test_everything_is_kept_by_default():
    assert choose(Selection()) == NAMES


def test_weights_only_leaves_states_and_what_training_saves_beside_the_network():
    assert choose(Selection(weights_only=True)) == ["a.weight", "a.scale", "teacher.a.weight", "moment1.gone"]


def test_without_a_strategy_scalars_are_told_apart_by_name():
    kept = choose(Selection(weights_only=True, known_only=True), known=None)
    assert kept == ["a.weight", "a.scale", "teacher.a.weight", "moment1.gone"]


def test_known_only_leaves_what_the_strategy_does_not_know():
    assert choose(Selection(known_only=True)) == ["a.weight", "a.scale"]


def test_exclusion_wins_over_inclusion():
    assert choose(Selection(include=("a.*", "moment1.*"), exclude=("*.weight",))) == ["a.scale", "moment1.gone"]


def test_only_floating_point_is_cast():
    selection = Selection(dtype="bfloat16")
    assert selection.target(FLOAT32) is BFLOAT16
    assert selection.target(BY_NAME["Int64"]) is BY_NAME["Int64"]


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match="dtype 'int8'"):
        Selection(dtype="int8")


def test_a_selection_survives_its_record():
    selection = Selection(("a",), ("b", "c"), weights_only=True, known_only=True, dtype="float16")
    assert selection_from(selection_record(selection)) == selection
