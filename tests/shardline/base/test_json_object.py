from pathlib import Path

import pytest

from shardline.base.errors import CorruptShard, MissingShard
from shardline.base.json_object import parse_object, read_object

FILE = Path("/shards/x.json")


def test_an_object_is_read(tmp_path):
    (tmp_path / "x.json").write_text('{"a": {"b": [1, null]}, "é": 2}')
    assert read_object(tmp_path / "x.json", "manifest") == {"a": {"b": [1, None]}, "é": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', r"^/shards/x\.json: the name 'a' appears twice in the header$"),
        ('{"a": {"b": [{"c": 1, "c": 2}]}}', r"the name 'c' appears twice in the header$"),
        ('{"a": 1', r"its header is not JSON: .*; the file is damaged$"),
        ("[" * 100_000, "its header is not JSON"),
        ("[1]", r"expected a JSON object as header, found list$"),
        ('{"a\\ud800": 1}', r"its header holds a lone surrogate, '\\ud800'"),
        ('{"a": ["\\uDfFf"]}', r"its header holds a lone surrogate, '\\udfff'"),
    ],
)
def test_what_is_no_object_or_an_ambiguous_one_is_refused(content, message):
    with pytest.raises(CorruptShard, match=message):
        parse_object(content.encode(), FILE, "header")


def test_pairs_of_surrogates_and_a_byte_order_mark_are_text():
    assert parse_object('\ufeff{"\\ud83d\\ude00": 1}'.encode(), FILE, "header") == {"\U0001f600": 1}


@pytest.mark.parametrize("content", [b'{"\xed\xa0\x80": 1}', b'{"\xff": 1}', '{"a": 1}'.encode("utf-16")])
def test_what_is_no_utf_8_is_refused(content):
    with pytest.raises(CorruptShard, match="its header is not JSON"):
        parse_object(content, FILE, "header")


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingShard, match=r"x\.json: there is no such manifest"):
        read_object(tmp_path / "x.json", "manifest")
