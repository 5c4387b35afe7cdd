"""One step of training, on one rank: learning rate, decay, norm and precision."""

from math import cos, pi
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from shardline.parallel.backends import backend_of
from shardline.parallel.single_device import SingleDevice
from shardline.parallel.squares import SquaresOverRanks
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig
from shardline.training.optimizers import WarmUpAndDecay, WeightDecay
from shardline.training.steps import StagedTrainStep, TrainStep, train_step
from tests.plain_training import texts


@pytest.fixture(autouse=True)
def graph_mode():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")


def rates(steps: list[int], **settings: Any) -> list[float]:
    schedule = WarmUpAndDecay(0.5, **settings)
    return [float(schedule(Tensor([step], mindspore.int32)).asnumpy()[0]) for step in steps]


def test_the_rate_rises_evenly_and_stays():
    found = rates([0, 1, 3, 4, 100], warmup=4, total=10, decay=False)
    assert found == pytest.approx([0.125, 0.25, 0.5, 0.5, 0.5])


def test_the_rate_falls_along_half_a_cosine_to_0_and_stays_there():
    found = rates([4, 5, 9, 10, 11], warmup=4, total=10, decay=True)
    assert found == pytest.approx([0.5, 0.25 * (1 + cos(pi / 6)), 0.25 * (1 + cos(pi * 5 / 6)), 0, 0], abs=1e-7)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert rates([0], warmup=0, total=10, decay=True) == pytest.approx([0.5])


def test_decay_takes_its_share_off_each_weight():
    weight = Parameter(Tensor(np.array([[2.0, -4.0]], np.float32)), name="w")
    WeightDecay([weight], 0.25)(Tensor(0.5, mindspore.float32))
    np.testing.assert_allclose(weight.asnumpy(), [[1.75, -3.5]])


class TwoRanks(nn.Cell):
    """The sum over two ranks that hold the same."""

    def construct(self, x: Any) -> Any:
        return 2 * x


def test_a_slice_that_two_ranks_hold_counts_once():
    gradients = (Tensor(np.array([3.0], np.float32)), Tensor(np.array([[4.0, 0.0]], np.float32)))
    assert SquaresOverRanks((0.5, 0.5), TwoRanks())(gradients).asnumpy() == pytest.approx([25])
    assert SquaresOverRanks((1, 1), ops.Identity())(gradients).asnumpy() == pytest.approx([25])


def outcomes(precision: str) -> np.ndarray:
    config = RunConfig(
        network="gpt", world_size=1, layers=1, hidden_size=32, sequence_length=16, batch_size=8, precision=precision
    )
    network = network_of(config)
    backend = backend_of(config, network, rank=0)
    backend.start()
    step = train_step(network.cell(8, backend, config.seed), config, backend, total_steps=5)
    samples, labels = (Tensor(part[:8]) for part in texts())
    return np.array([[float(value.asnumpy()) for value in step(samples, labels)] for _ in range(5)])


def test_multiplications_in_float16_train_nearly_like_float32():
    half, full = outcomes("float16"), outcomes("float32")
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, rtol=5e-3)
    assert (np.diff(full[:, 0]) < 0).all()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_micro_batches_learn_what_the_batch_does(precision):
    """On one rank, without stages: loss, norm, clipping and update are right whatever the compiler parts later."""
    whole = RunConfig(
        network="gpt",
        world_size=1,
        layers=1,
        hidden_size=32,
        sequence_length=16,
        batch_size=8,
        optimizer="AdamW",
        clip_norm=0.5,
        precision=precision,
        enable_parallel_optimizer=True,  # where the compiler doesn't add gradients up, these are not looked for
    )
    parted = whole.model_copy(update={"pipeline_stages": 1, "micro_batches": 4})
    found, saved = {}, {}
    for config, kind in ((whole, TrainStep), (parted, StagedTrainStep)):
        network = network_of(config)
        backend = SingleDevice(config, 0, network)
        backend.start()
        cell = network.cell(config.micro_batch_size, backend, config.seed)
        step = kind(cell, config, backend, total_steps=5).set_train()
        batch = [Tensor(part[:8]) for part in texts()]
        found[kind] = [[float(value.asnumpy()) for value in step(*batch)] for _ in range(5)]
        saved[kind] = {each.name for each in backend.held(step.get_parameters())}
    assert (
        saved[StagedTrainStep]
        == saved[TrainStep]
        == {each.name for each in step.get_parameters()} - {f"accu_grads.{each.name}" for each in cell.get_parameters()}
    )
    np.testing.assert_allclose(found[StagedTrainStep], found[TrainStep], rtol=2e-5 if precision == "float32" else 5e-3)
