"""The order of samples is a function of seed and step."""

import numpy as np
import pytest

from shardline.base.errors import ConfigError
from shardline.training.batches import Batches

IMAGES = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
LABELS = np.arange(10, dtype=np.int32)


def test_an_epoch_takes_every_sample_at_most_once_and_drops_the_remainder():
    batches = Batches(IMAGES, LABELS, batch_size=3, seed=1)
    assert batches.steps_per_epoch == 3
    taken = np.concatenate([batches.at(step)[1] for step in range(3)])
    assert len(set(taken.tolist())) == 9


def test_the_order_is_the_documented_permutation_and_images_go_with_their_labels():
    images, labels = Batches(IMAGES, LABELS, batch_size=5, seed=7).at(3)
    np.testing.assert_array_equal(labels, np.random.default_rng([7, 2]).permutation(10)[5:])
    np.testing.assert_array_equal(images.ravel(), labels)


def test_any_step_can_be_the_first():
    one_after_another = Batches(IMAGES, LABELS, batch_size=2, seed=1)
    every = [one_after_another.at(step)[1] for step in range(20)]
    np.testing.assert_array_equal(Batches(IMAGES, LABELS, batch_size=2, seed=1).at(13)[1], every[13])
    np.testing.assert_array_equal(one_after_another.at(4)[1], every[4])


def test_positions_count_from_one():
    batches = Batches(IMAGES, LABELS, batch_size=3, seed=1)
    assert [batches.position(step) for step in (0, 2, 3)] == [(1, 1), (1, 3), (2, 1)]


def test_a_batch_of_more_than_all_samples_is_refused():
    with pytest.raises(ConfigError, match="batch_size 11 is more than the 10 training samples"):
        Batches(IMAGES, LABELS, batch_size=11, seed=1)
