"""Mapping files: what is read, and where a mistake is."""

import json

import pytest

from shardline.base.errors import ConfigError
from shardline.export.mapping_file import read_mapping
from shardline.settings.toml_file import TomlFile

GOOD = """leave_out = ["moment1.*"]

[config]
model_type = "mine"
layers = [1, 2]

[[tensors]]
from = ["q{i}", "k{i}"]
join = 1
transpose = true
to = "qk.{i-1}"
shape = [8, 4]

[[tensors]]
from = "w"
transpose = [1, 0]
split = 0
sizes = [1, 3]
to = ["w1", "w2"]
"""


def read(tmp_path, content, name="m.toml"):
    file = tmp_path / name
    file.write_text(content)
    return read_mapping(file)


def test_toml_and_json_say_the_same(tmp_path):
    toml = read(tmp_path, GOOD)
    same = read(tmp_path, json.dumps(TomlFile.read(tmp_path / "m.toml").document), "m.json")
    assert (toml.rules, toml.leave_out, toml.config) == (same.rules, same.leave_out, same.config)
    assert toml.digest != same.digest
    joined, split = toml.rules
    assert (joined.sources, joined.targets, joined.join, joined.shape) == (("q{i}", "k{i}"), ("qk.{i-1}",), 1, (8, 4))
    assert joined.transpose
    assert (split.axes, split.split, split.sizes, split.targets) == ((1, 0), 0, (1, 3), ("w1", "w2"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("leave_out =", "leaveout =", r"m.toml:1: expected one of leave_out, config, tensors, found 'leaveout'"),
        ('["moment1.*"]', "3", r"m.toml:1: leave_out: expected names, found 3"),
        ("join = 1", "axis = 1", r"m.toml:9: expected one of from, to, join, .*, found 'axis'"),
        ("join = 1", "join = -1", r"m.toml:9: join: expected an axis, from 0, found -1"),
        ("join = 1", "join = true", r"m.toml:9: join: expected an axis, from 0, found True"),
        ("transpose = true", 'transpose = "T"', r"m.toml:10: expected true, or the order of the axes, found 'T'"),
        ("[1, 0]", "[1, 1]", r"m.toml:1\d: transpose: expected every axis once"),
        ("sizes = [1, 3]", "sizes = 4", r"m.toml:18: sizes: expected whole numbers of at least 0, found 4"),
        ('to = ["w1", "w2"]', "", r"m.toml:1\d: to: expected names, found None"),
        ('"w"', '""', r"m.toml:1\d: from: expected names, found \[''\]"),
        ("layers = [1, 2]", "layers = inf", r"m.toml:\d: config: expected what config.json can hold"),
        ("layers = [1, 2]", "layers = 2020-01-01", r"m.toml:\d: config: expected what config.json can hold"),
        ("[config]", "[config", r"m.toml:3: this is no TOML"),
    ],
)
def test_a_mistake_is_refused_with_file_and_line(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"m.json: expected \[\[tensors\]\], at least one rule, found none"),
        ("[]", "expected a JSON object as mapping, found list"),
        ("{", "its mapping is not JSON"),
        ('{"tensors": 1, "tensors": 2}', "the name 'tensors' appears twice"),
        ('{"tensors": [1]}', r"m.json: tensors\[0\]: expected a rule with `from` and `to`, found int"),
        ('{"tensors": [{"from": "a", "to": "b", "join": 0}]}', r"m.json: tensors\[0\]: `join` is the axis"),
        ('{"tensors": [{"from": "a", "to": 1}]}', r"m.json: tensors\[0\]: to: expected names, found 1"),
        ('{"tensors": [{"from": "a", "to": "b"}], "config": []}', "m.json: config: expected a table, found list"),
    ],
)
def test_a_mistake_in_json_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, content, "m.json")


@pytest.mark.parametrize("name", ["m.toml", "m.json"])
def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name} cannot be read: No such file"):
        read_mapping(tmp_path / name)
    (tmp_path / name).write_text(" " * 300_000)
    with pytest.raises(ConfigError, match=f"{name}: expected at most 262144 bytes"):
        read_mapping(tmp_path / name)
