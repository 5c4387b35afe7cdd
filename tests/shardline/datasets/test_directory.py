from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import DatasetError
from shardline.datasets.description import SPLITS
from shardline.datasets.directory import Directory
from shardline.datasets.idx import write_labels
from tests.permissions import open_to_all, unprivileged  # noqa: F401 - a fixture

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def compressed(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


def with_dots(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))


@pytest.mark.parametrize("changes", [[], [compressed], [with_dots], [with_dots, compressed]])
def test_every_usual_spelling_is_read(idx_folder: Path, samples, changes):
    for change in changes:
        change(idx_folder)
    read = Directory(idx_folder).read()
    for split in SPLITS:
        np.testing.assert_array_equal(read[split].images, samples[split].images)
        np.testing.assert_array_equal(read[split].labels, samples[split].labels)


def test_the_fingerprint_is_of_the_content(idx_folder: Path, tmp_path: Path):
    fingerprint = Directory(idx_folder).fingerprint()
    copy = shutil.copytree(idx_folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert Directory(copy).fingerprint() == fingerprint
    file = copy / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert Directory(copy).fingerprint() != fingerprint


@pytest.mark.parametrize("ask", [Directory.fingerprint, Directory.read])
def test_a_missing_folder_is_refused(tmp_path: Path, ask):
    with pytest.raises(DatasetError, match=r"nowhere: expected a readable folder.*No such file.*data_directory"):
        ask(Directory(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("~nobody-here", "No such file"), ("a\0b", "null"), ("x" * 300, "File name too long"), ("x/" * 3000, "too long")],
)
def test_nonsense_in_place_of_a_folder_is_refused(name: str, reason: str):
    with pytest.raises(DatasetError, match=f"expected a readable folder.*{reason}"):
        Directory(Path(name)).fingerprint()


def test_a_file_in_place_of_the_folder_is_refused(idx_folder: Path):
    with pytest.raises(DatasetError, match="Not a directory"):
        Directory(idx_folder / "t10k-images-idx3-ubyte").fingerprint()


def test_a_missing_file_is_named_with_what_is_there(idx_folder: Path):
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DatasetError, match=r"expected t10k-labels-idx1-ubyte, raw or with .gz.*the folder has t10k-images-idx3-ubyte, "
    ):
        Directory(idx_folder).fingerprint()


def test_only_files_count(idx_folder: Path):
    file = idx_folder / "t10k-labels-idx1-ubyte"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DatasetError, match="expected t10k-labels-idx1-ubyte, raw or with"):
        Directory(idx_folder).fingerprint()


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="the folder has no files"):
        Directory(tmp_path).read()


def test_a_label_missing_is_refused(idx_folder: Path):
    write_labels(idx_folder / "train-labels-idx1-ubyte", np.zeros(29, np.uint8))
    with pytest.raises(DatasetError, match=r"found 30 images in .* and 29 labels in"):
        Directory(idx_folder).read()


def test_an_unreadable_folder_is_refused(idx_folder: Path, request: pytest.FixtureRequest):
    open_to_all(idx_folder.parent)
    idx_folder.chmod(0o000)
    request.getfixturevalue("unprivileged")
    with pytest.raises(DatasetError, match="expected a readable folder of IDX files: Permission denied"):
        Directory(idx_folder).fingerprint()


def test_an_unreadable_file_is_refused(idx_folder: Path, request: pytest.FixtureRequest):
    open_to_all(idx_folder)
    file = idx_folder / "train-labels-idx1-ubyte"
    file.chmod(0o000)
    request.getfixturevalue("unprivileged")
    with pytest.raises(DatasetError, match=f"{file}: expected a readable IDX file: Permission denied"):
        Directory(idx_folder).fingerprint()
    with pytest.raises(DatasetError, match=f"{file}: expected a readable file of labels: Permission denied"):
        Directory(idx_folder).read()


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_as_debian_installs_it():
    read = Directory(FASHION_MNIST).read()
    assert np.bincount(read["train"].labels).tolist() == [6000] * 10
    assert np.bincount(read["test"].labels).tolist() == [1000] * 10
