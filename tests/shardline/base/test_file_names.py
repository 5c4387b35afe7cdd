"""Which names a file can have."""

import pytest

from shardline.base.file_names import is_plain, is_possible


@pytest.mark.parametrize("name", ["a", "a" * 255, "é" * 127, "model-00001-of-00002.safetensors", " ", "..a"])
def test_names_that_a_file_can_have(tmp_path, name):
    (tmp_path / name).touch()
    assert is_plain(name)


@pytest.mark.parametrize("name", ["a" * 256, "é" * 128, "a\0b", "\ud800"])
def test_names_that_no_file_can_have(tmp_path, name):
    assert not is_possible(name)
    assert not is_plain(name)
    with pytest.raises((OSError, ValueError)):
        (tmp_path / name).touch()


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../a", "a/"])
def test_paths_that_are_no_plain_names(name):
    assert not is_plain(name)


def test_a_path_has_parts_of_possible_length_and_so_few_that_the_kernel_takes_them():
    assert is_possible("rank_0/" + "a" * 255)
    assert not is_possible("rank_0/" + "a" * 256)
    assert not is_possible("a/" * 2000)
