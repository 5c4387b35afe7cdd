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
    ],
)
def test_what_is_no_object_or_an_ambiguous_one_is_refused(content, message):
    with pytest.raises(CorruptShard, match=message):
        parse_object(content.encode(), FILE, "header")


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingShard, match=r"x\.json: there is no such manifest"):
        read_object(tmp_path / "x.json", "manifest")
