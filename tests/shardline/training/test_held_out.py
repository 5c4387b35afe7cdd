"""The loss on held-out samples: the right number, and no trace of it in what is trained."""

import numpy as np
import pytest
from mindspore import Tensor
from scipy.special import log_softmax

from shardline.parallel.single_device import SingleDevice
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig
from shardline.training.held_out import HeldOut
from shardline.training.steps import train_step

CONFIG = RunConfig(world_size=1, batch_size=4)


@pytest.fixture
def drawn():
    random = np.random.default_rng(0)
    images = random.standard_normal((10, 1, 28, 28)).astype(np.float32)
    return images, random.integers(0, 10, 10).astype(np.int32)


def trained(drawn, every):
    """The parameters after four steps, and what was found on held-out samples on the way."""
    images, labels = drawn
    network = network_of(CONFIG)
    backend = SingleDevice(CONFIG, 0, network)
    backend.start()
    cell = network.cell(CONFIG.batch_size, backend, 1)
    step_cell = train_step(cell, CONFIG, backend, total_steps=4)
    held_out = HeldOut(network=cell, samples=images, labels=labels, batch_size=4, every=every)
    found = []
    for step in range(1, 5):
        step_cell(Tensor(images[step : step + 4]), Tensor(labels[step : step + 4]))
        if held_out.is_due(step, 4):
            found.append(held_out.loss())
    return {parameter.name: parameter.asnumpy().copy() for parameter in step_cell.get_parameters()}, found, cell


def test_weights_are_the_same_to_the_bit_with_it_or_without_it(drawn):
    (often, found, _), (never, last, _) = trained(drawn, 1), trained(drawn, 100)
    assert (len(found), len(last)) == (4, 1)
    assert found[-1] == last[0]
    assert all(np.array_equal(often[name], never[name]) for name in never)


def test_it_is_the_mean_cross_entropy_of_all_samples_whatever_the_batch(drawn):
    images, labels = drawn
    _, found, cell = trained(drawn, 100)
    cell.set_train(False)
    logits = np.concatenate(
        [cell(Tensor(images[place : place + 1].repeat(4, axis=0))).asnumpy()[:1] for place in range(10)]
    )
    expected = -np.take_along_axis(log_softmax(logits.astype(np.float64), axis=-1), labels[:, None], axis=-1).mean()
    assert found[0] == pytest.approx(expected, rel=1e-5)
