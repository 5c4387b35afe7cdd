"""Texts with placeholders."""

import pytest

from shardline.settings.placeholders import check_names, filled, names_in


def test_names_are_found_and_braces_may_stand_for_themselves():
    assert names_in("a{b}{{c}}{d}") == ["b", "d"]
    assert filled("a{b}{{c}}{d}", {"b": "1", "d": "2"}) == "a1{c}2"


@pytest.mark.parametrize("text", ["{", "}", "a{b", "{a b}", "{}", "{a:3}", "{a!r}", "{a.b}", "{0}"])
def test_braces_that_belong_to_no_placeholder_are_refused(text):
    with pytest.raises(ValueError, match=r"write \{\{ and \}\} for braces"):
        names_in(text)


def test_unknown_names_are_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"\{c\} is no placeholder here; there are \{a\}, \{b\}"):
        check_names("{a}{c}", ["b", "a"])


@pytest.mark.parametrize("value", ["{b}", "{{", "$(touch x)", '"; rm', "{{ 1 / 0 }}", "\n\\1\\g<0>", "é"])
def test_values_are_never_read_again(value):
    assert filled("x{a}y{b}", {"a": value, "b": "B"}) == f"x{value}yB"
