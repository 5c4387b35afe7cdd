from __future__ import annotations

from pathlib import Path

import pytest

from shardline.base.errors import DatasetError
from shardline.datasets.standard_library import StandardLibrary


@pytest.fixture(scope="module")
def splits():
    return StandardLibrary(200_000).read()


def test_the_sizes_are_exact(splits):
    assert (len(splits["train"]), len(splits["test"])) == (200_000, 20_000)


def test_it_is_python(splits):
    assert splits["train"].count(b"\ndef ") > 20
    assert splits["test"].count(b"import ") > 5


def test_a_longer_text_begins_with_the_shorter(splits):
    longer = StandardLibrary(300_000).read()
    assert longer["train"].startswith(splits["train"])
    assert longer["test"].startswith(splits["test"])


def test_no_line_of_code_that_was_held_out_is_copied_from_training_files(tmp_path: Path):
    """Files go to one split as a whole, whatever the size."""
    for name in ("abc", "ast", "json", "io", "os", "re", "csv", "cmd", "code", "copy", "dis", "enum", "glob", "gzip"):
        (tmp_path / f"{name}.py").write_text(f"{name}_marker = 0\n" * 1000)
    splits = StandardLibrary(40_000, tmp_path).read()
    names = {split: {line.split(b"_")[0] for line in content.splitlines()[:-1]} for split, content in splits.items()}
    assert names["train"]
    assert names["test"]
    assert not names["train"] & names["test"]


def test_only_modules_of_the_library_are_taken(tmp_path: Path):
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "json" / "tests").mkdir(parents=True)
    for file in ("json/decoder.py", "json/tests/test.py", "somebody_elses.py", "site-packages/numpy.py"):
        (tmp_path / file).write_text("x = 0\n")
    assert StandardLibrary(100, tmp_path).fingerprint().splitlines()[2:] == ["json/decoder.py 6"]


def test_a_patched_library_is_another_text(tmp_path: Path):
    (tmp_path / "abc.py").write_text("x = 0\n")
    before = StandardLibrary(100, tmp_path).fingerprint()
    assert StandardLibrary(100, tmp_path).fingerprint() == before
    (tmp_path / "abc.py").write_text("x = 10\n")
    assert StandardLibrary(100, tmp_path).fingerprint() != before
    assert StandardLibrary(101, tmp_path).fingerprint() != before


def test_more_than_there_is_is_refused():
    with pytest.raises(DatasetError, match=r"expected 900000000 bytes of Python's standard library, found \d{7,8}"):
        StandardLibrary(900_000_000).read()
