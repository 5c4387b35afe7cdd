"""Training that has gone wrong ends at the step where it did, and says what went wrong."""

import mindspore
import numpy as np
import pytest
from mindspore import nn

from shardline.base.errors import TrainingError
from shardline.training.health import Health


@pytest.fixture
def cell():
    return nn.Dense(3, 2)


def health(cell, factor=None) -> Health:
    return Health(list(cell.get_parameters()), 5, factor)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_names_the_step_and_the_first_parameter(cell, loss):
    cell.bias.set_data(mindspore.Tensor(np.array([1, np.nan], np.float32)))
    with pytest.raises(TrainingError, match=r"epoch 2 step 7: the loss is .* 1 of 2 .* rank 5 .* the first is bias\."):
        health(cell).check("epoch 2 step 7", loss, None)


def test_a_gradient_that_is_not_finite_ends_training_although_the_loss_is(cell):
    with pytest.raises(TrainingError, match=r"the gradient's norm is inf.* all parameters on rank 5 are finite still"):
        health(cell).check("epoch 1 step 1", 2.0, float("inf"))


def test_a_loss_far_above_the_median_is_a_spike(cell):
    watched = health(cell, factor=3.0)
    for loss in np.linspace(2, 1, 30):
        watched.check("", float(loss), 1.0)
    watched.check("", 3.0, 1.0)
    with pytest.raises(TrainingError, match=r"the loss is 5, more than loss_spike_factor 3 times 1\.\d+, the median"):
        watched.check("epoch 1 step 32", 5.0, 1.0)


def test_the_first_steps_are_no_spikes_and_without_a_factor_nothing_is(cell):
    watched = health(cell, factor=2.0)
    for loss in (1.0, 50.0, 1.0):
        watched.check("", loss, None)
    unwatched = health(cell)
    for loss in [1.0] * 20 + [1e30]:
        unwatched.check("", loss, None)
