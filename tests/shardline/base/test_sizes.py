import re

import pytest

from shardline.base.progress import human_size
from shardline.base.sizes import PATTERN, parse_size
from shardline.settings.merge_config import MergeCheckpointConfig


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("60KB", 60_000),
        ("60 kb", 60_000),
        ("5gb", 5_000_000_000),
        ("5 GiB", 5 * 2**30),
        ("5gi", 5 * 2**30),
        ("512mib", 512 * 2**20),
        ("1.5G", 1_500_000_000),
        ("0.1kB", 100),
        ("1.0001kB", 1000),
        ("2T", 2 * 10**12),
        ("5PB", 5 * 10**15),
        ("700", 700),
        ("700 B", 700),
        ("1 byte", 1),
        (" 700 Bytes ", 700),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size
    assert MergeCheckpointConfig(run="a/b", format="safetensors", max_file_size=text).max_file_size == text


@pytest.mark.parametrize(
    "text",
    ["", "GB", "5 iB", "5XB", "-1", "+5GB", "1e9", "5,5GB", "5 gigabytes", "5kbytes", "5 G B", "٥GB", "5GB."],
)
def test_what_is_no_size_is_refused_with_examples(text):
    with pytest.raises(ValueError, match=r"expected a size such as 60KB, 5GB, 1.5G or 512MiB, found "):
        parse_size(text)
    assert re.search(PATTERN, text) is None


@pytest.mark.parametrize("text", ["0", "0GB", "0.0005kB"])
def test_a_size_has_at_least_one_byte(text):
    with pytest.raises(ValueError, match="at least one byte"):
        parse_size(text)


@pytest.mark.parametrize("size", [1, 999, 1000, 12_345, 1_234_567, 999_600_000, 5 * 10**15])
def test_what_is_printed_is_read(size):
    assert parse_size(human_size(size)) == pytest.approx(size, rel=0.005)
