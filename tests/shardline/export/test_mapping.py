"""Rules: their names, and what is refused."""

import pytest

from shardline.base.errors import ConfigError
from shardline.export.mapping import Rule


def rule(**given: object) -> Rule:
    return Rule(**{"sources": ("a{i}",), "targets": ("b.{i}",), "where": "m.toml:3"} | given)


def test_numbers_are_read_of_one_name_and_put_into_another():
    made = rule(sources=("layer{i}.expert{j}.w",), targets=("h.{i-1}.{j+10}.{i}",))
    numbers = made.numbers_of("layer3.expert0.w")
    assert numbers == {"i": 3, "j": 0}
    assert made.filled(made.targets[0], numbers) == "h.2.10.3"


@pytest.mark.parametrize(
    "name", ["layer03.w", "layer.w", "layer-1.w", "xlayer1.w", "layer1.w2", "layer1xw", "layer1.w\n"]
)
def test_other_names_do_not_match(name):
    assert rule(sources=("layer{i}.w",)).numbers_of(name) is None


def test_a_placeholder_twice_is_one_number():
    twice = rule(sources=("a{i}.b{i}",))
    assert twice.numbers_of("a7.b7") == {"i": 7}
    assert twice.numbers_of("a7.b8") is None


def test_a_number_below_0_is_refused_with_the_parameter():
    made = rule(targets=("h.{i-1}",))
    with pytest.raises(ConfigError, match=r"m.toml:3: 'h.\{i-1\}' would be numbered -1 for 'a0'"):
        made.filled("h.{i-1}", {"i": 0})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sources": ()}, "at least one name in `from`"),
        ({"targets": ()}, "at least one name"),
        ({"sources": ("a{i}", "b{i}")}, "`join` is the axis .* found 2 in `from`"),
        ({"join": 0}, "`join` is the axis .* found 1 in `from`"),
        ({"targets": ("a{i}", "b{i}")}, "`split` is the axis .* found 2 in `to`"),
        ({"split": 1}, "`split` is the axis .* found 1 in `to`"),
        ({"sizes": (1, 2)}, r"a size for each of the 1 names in `to`, found \[1, 2\]"),
        ({"axes": (0, 0)}, r"transpose: expected every axis once, from 0, found \[0, 0\]"),
        ({"axes": (1, 2)}, "every axis once"),
        ({"sources": ("a{i}", "b"), "join": 0}, "the same placeholders in every name of `from`, found a{i}, b"),
        ({"targets": ("b",)}, "the placeholders of `from` in 'b'"),
        ({"targets": ("b{j}",)}, "the placeholders of `from` in 'b{j}'"),
        ({"targets": ("b{i*2}",)}, r"the placeholders of `from` in 'b\{i\*2\}'"),
        ({"sources": ("a{i-1}",), "targets": ("b",)}, "a placeholder such as {i} in `from`, found {i-1}"),
        ({"sources": ("a{}",), "targets": ("b",)}, "a placeholder such as {i}"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused_where_it_stands(given, message):
    with pytest.raises(ConfigError, match=f"m.toml:3: .*{message}"):
        rule(**given)
