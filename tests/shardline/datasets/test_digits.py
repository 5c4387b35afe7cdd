from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import DatasetError
from shardline.datasets.description import LABELLED_IMAGES
from shardline.datasets.digits import load, normalise
from shardline.datasets.directory import Directory
from shardline.datasets.preparation import prepare


@pytest.fixture
def dataset_file(tmp_path: Path, idx_folder: Path) -> Path:
    file = tmp_path / "dataset.json"
    file.write_text(prepare("directory", Directory(idx_folder), LABELLED_IMAGES, tmp_path / "prepared").to_json())
    return file


def test_images_and_labels_come_as_the_network_takes_them(dataset_file: Path, samples):
    images, labels = load(dataset_file, "train")
    assert images.shape == (30, 1, 28, 28)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, samples["train"].labels)
    expected = (samples["train"].images.astype(np.float64) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(images[:, 0], expected, rtol=1e-5, atol=1e-6)
    assert load(dataset_file, "test")[0].shape == (20, 1, 28, 28)


def test_black_and_white_have_the_usual_values():
    normalised = normalise(np.array([[[0, 255]]], np.uint8))
    np.testing.assert_allclose(normalised.ravel(), [-0.42421296, 2.8214867], rtol=1e-6)


def test_files_that_changed_since_are_refused(dataset_file: Path):
    file = next(dataset_file.parent.glob("prepared/*/train/train-images-idx3-ubyte"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DatasetError, match=r"the train images are not those of .*dataset.json"):
        load(dataset_file, "train")
    assert len(load(dataset_file, "test")[1]) == 20


def test_without_a_description_the_error_says_what_writes_it(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"dataset.json: .*prepare_dataset writes: No such file"):
        load(tmp_path / "dataset.json", "train")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"train": 1}', "null"])
def test_a_damaged_description_is_refused(tmp_path: Path, content: str):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=r"dataset.json: expected the description that prepare_dataset writes"):
        load(tmp_path / "dataset.json", "train")
