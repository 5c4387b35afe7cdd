"""The sharded transformer against a plain MindSpore script: the same losses, learning rates and gradient norms.

With data and tensor parallelism, optimizer sharding, clipping, decoupled weight decay and a schedule, all at once.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from mindspore import Tensor

from shardline.parallel.backends import backend_of
from shardline.parallel.layouts import layouts_of
from shardline.recipes.lookup import network_of
from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig
from tests.plain_training import texts
from tests.shardline.parallel.trainings import GPT, GPT_NAME, GPT_STEPS

RANKS = 4


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What the plain script left: `outcomes` (loss, learning rate, norm of the gradients) by step, and the weights."""
    folder = tmp_path_factory.mktemp("plain")
    settings = RunConfig(world_size=RANKS, **GPT).model_dump() | {"steps": GPT_STEPS}
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "tests.plain_gpt", folder / "settings.json", folder / "plain.npz"]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    return dict(np.load(folder / "plain.npz"))


def test_losses_rates_and_norms_equal_those_of_a_plain_script(on_four, plain):
    for rank in on_four.outcomes:
        np.testing.assert_allclose(rank[GPT_NAME], plain["outcomes"], rtol=1e-5)


def test_clipping_and_schedule_are_put_to_use(plain):
    _, rates, norms = plain["outcomes"].T
    assert norms.min() > GPT["clip_norm"]
    assert rates.argmax() == GPT["warmup_steps"] or rates[4] == rates[5] == GPT["learning_rate"]
    assert rates[-1] < rates[0]


def test_ranks_hold_their_slices_only_and_replicas_are_identical(on_four):
    config = RunConfig(world_size=RANKS, **GPT)
    network = network_of(config)
    shapes = network.parameters()
    for parameter, layout in layouts_of(network, config).items():
        whole_shape = next(shape for weight, shape in shapes.items() if parameter.endswith(weight))
        slices = [rank[f"{GPT_NAME}/{parameter}"] for rank in on_four.parameters]
        assert {part.shape for part in slices} == {layout.slice_shape(whole_shape)}
        for group in layout.replica_groups():
            assert len({slices[rank].tobytes() for rank in group}) == 1, parameter


def test_with_optimizer_sharding_a_rank_holds_a_fourth(on_four):
    shapes = network_of(RunConfig(**GPT)).parameters().values()
    whole = sum(3 * 4 * int(np.prod(shape)) for shape in shapes)  # float32: the parameter and two moments
    for rank in on_four.parameters:
        arrays = [array for key, array in rank.items() if key.startswith(f"{GPT_NAME}/")]
        assert sum(array.nbytes for array in arrays if array.size > 1) == whole / RANKS


def assembled(on_four):
    """Every parameter, put together from the ranks' slices."""
    config = RunConfig(world_size=RANKS, **GPT)
    network = network_of(config)
    layouts, whole = layouts_of(network, config), {}
    for parameter, shape in network.parameters().items():
        whole[parameter] = np.full(shape, np.nan, np.float32)
        for rank, arrays in enumerate(on_four.parameters):
            whole[parameter][layouts[parameter].slice_of(rank, shape)] = arrays[f"{GPT_NAME}/{parameter}"]
    return whole


def test_the_slices_together_compute_in_one_process_what_the_ranks_computed(on_four):
    single = RunConfig(world_size=1, **GPT | {"tensor_parallel": 1})
    network = network_of(single)
    backend = backend_of(single, network, rank=0)
    backend.start()
    cell = network.cell(single.batch_size, backend, seed=2)
    whole = assembled(on_four)
    for parameter in cell.trainable_params():
        parameter.set_data(Tensor(whole[parameter.name]))
    order = np.random.default_rng([single.seed, 1]).permutation(len(texts()[0]))
    logits = cell(Tensor(texts()[0][order[: single.batch_size]])).asnumpy()
    for rank in on_four.logits:
        np.testing.assert_allclose(rank[GPT_NAME], logits, atol=1e-5 * np.abs(logits).max())


def test_the_slices_together_are_the_model_of_the_plain_script(on_four, plain):
    found, expected = assembled(on_four), {name: array for name, array in plain.items() if name != "outcomes"}
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
