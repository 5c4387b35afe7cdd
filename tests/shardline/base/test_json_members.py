import json

import pytest

from shardline.base.json_members import JsonMembers


def read(text):
    """The object in `text`, member by member, two levels deep."""
    members = JsonMembers(text)
    found = {name: {inner: members.value() for inner in members.members()} for name in members.members()}
    members.end()
    return found


def test_members_are_what_json_reads():
    document = {"a": {"b": [1, {"c": None}], 'quo"te': "é"}, "": {}}
    assert read(json.dumps(document)) == read(json.dumps(document, indent=2) + "\n") == document


def test_nothing_is_read_from_an_empty_object():
    assert read(" {} ") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected { at character 0, found the end"),
        ("[]", r"expected \{ at character 0, found \["),
        ('{"a": {"b": 1}', "expected , or } at character 14, found the end"),
        ('{"a" {}}', "expected : at character 5"),
        ("{1: {}}", "expected a name, found 1"),
        ('{"a": {}, "a": {}}', "'a' appears twice"),
        ('{"a": {"b": {"c": 1, "c": 2}}}', "appears twice"),
        ('{"a": {"b": NaN}}', "NaN is no JSON"),
        ('{"a": {"b": ' + "[" * 100_000 + "}}", "nested too deeply"),
        ('{"a": {}} x', "expected the end at character 10, found 'x'"),
    ],
)
def test_what_is_no_object_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read(text)
