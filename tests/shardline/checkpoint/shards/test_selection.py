import pytest

from shardline.base.errors import ConfigError, MissingShard
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_types import BFLOAT16, BY_NAME, FLOAT32, TEXT
from shardline.checkpoint.shards.selection import Selection, selection_from, selection_record
from shardline.checkpoint.strategy.layout import replicated

NAMES = ["a.weight", "a.scale", "moment1.a.weight", "teacher.a.weight", "moment1.gone", "global_step", "note"]
SHAPES = {"global_step": (), "a.scale": ()}
HEADERS = {name: TensorHeader(name, TEXT if name == "note" else FLOAT32, SHAPES.get(name, (2, 2))) for name in NAMES}
KNOWN = {"a.weight": replicated(2, 2), "a.scale": replicated(2, 0)}


def choose(selection, layouts=KNOWN, recorded=None):
    return list(selection.choose(HEADERS, layouts, recorded).names)


def notices(selection, layouts=KNOWN, recorded=None):
    return " | ".join(selection.choose(HEADERS, layouts, recorded).notices)


def test_everything_is_kept_by_default():
    assert choose(Selection()) == NAMES
    assert notices(Selection()) == ""


@pytest.mark.parametrize("layouts", [KNOWN, None])
def test_weights_only_leaves_states_and_what_training_saves_beside_the_network(layouts):
    kept = choose(Selection(weights_only=True), layouts)
    assert kept == ["a.weight", "a.scale", "teacher.a.weight", "moment1.gone"]
    said = notices(Selection(weights_only=True), layouts)
    assert "4 tensors kept; left out: 1 as optimizer state (moment1.a.weight), 2 as" in said
    assert "(global_step and note); judged by names, shapes and layouts" in said


def test_what_training_recorded_decides():
    kept = choose(Selection(weights_only=True), recorded=frozenset({"a.weight", "moment1.gone"}))
    assert kept == ["a.weight", "moment1.gone"]
    assert "training's own record says so" in notices(Selection(weights_only=True), recorded=frozenset({"a.weight"}))


def test_a_list_of_names_wins_over_the_record_and_over_what_names_look_like():
    selection = Selection(weights_only=True, trainable=("moment1.a.weight", "a.scale"))
    assert choose(selection, recorded=frozenset({"a.weight"})) == ["a.scale", "moment1.a.weight"]
    assert "the list of names says so" in notices(selection)


def test_a_listed_parameter_that_is_not_there_is_refused():
    with pytest.raises(MissingShard, match=r"names 1 that no rank has saved, such as b\.weight"):
        choose(Selection(weights_only=True, trainable=("a.weight", "b.weight")))


def test_a_list_without_weights_only_is_refused():
    with pytest.raises(ConfigError, match="--weights-only"):
        Selection(trainable=("a.weight",))


def test_known_only_leaves_what_the_strategy_does_not_know():
    assert choose(Selection(known_only=True)) == ["a.weight", "a.scale"]


def test_exclusion_wins_over_inclusion():
    assert choose(Selection(include=("a.*", "moment1.*"), exclude=("*.weight",))) == ["a.scale", "moment1.gone"]


def test_states_that_lose_their_parameter_are_named():
    selection = Selection(exclude=("a.*",))
    assert "moment1.a.weight" in choose(selection)
    assert "1 optimizer state (moment1.a.weight) is kept without its parameter" in notices(selection)


def test_patterns_that_match_nothing_are_named():
    selection = Selection(include=("a.*", "A.*"), exclude=("*.gone", "*.bias"))
    assert selection.unmatched(NAMES) == ("--include 'A.*'", "--exclude '*.bias'")


def test_only_floating_point_is_cast():
    selection = Selection(dtype="bfloat16")
    assert selection.target(FLOAT32) is BFLOAT16
    assert selection.target(BY_NAME["Int64"]) is BY_NAME["Int64"]


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match="dtype 'int8'"):
        Selection(dtype="int8")


@pytest.mark.parametrize("listed", [None, ("a.weight", "b")])
def test_a_selection_survives_its_record(listed):
    selection = Selection(("a",), ("b", "c"), True, True, "float16", trainable=listed)
    assert selection_from(selection_record(selection)) == selection
