"""Which backend a run gets, what it needs from its surroundings, and the device path's contexts without a device."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import ops

from shardline.base.errors import ConfigError
from shardline.checkpoint.strategy.strategy_file import read_strategy, write_strategy
from shardline.parallel.backends import backend_of, rank_of
from shardline.parallel.cpu.backend import CpuBackend
from shardline.parallel.layouts import strategy_of
from shardline.parallel.semi_auto import SemiAutoBackend
from shardline.parallel.single_device import SingleDevice, device_of
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig

PROJECT = Path(__file__).parents[3]
STATES = ("", "moment1.", "moment2.")


def backend(**parameters: Any) -> SingleDevice:
    config = RunConfig(**parameters)
    return backend_of(config, network_of(config), rank=0)


def test_each_target_has_its_backend():
    assert type(backend(world_size=1)) is SingleDevice
    assert type(backend(world_size=1, device_target="Ascend")) is SingleDevice
    assert type(backend(world_size=8)) is CpuBackend
    assert type(backend(world_size=8, device_target="GPU")) is SemiAutoBackend
    assert type(backend(world_size=8, device_target="Ascend")) is SemiAutoBackend


def test_the_rank_is_the_one_mpirun_gave():
    assert rank_of({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8"}, 8) == 3
    assert rank_of({}, 1) == 0


@pytest.mark.parametrize("environment", [{}, {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}])
def test_another_number_of_ranks_than_configured_is_refused(environment):
    with pytest.raises(ConfigError, match=r"world_size is 8, but \d ranks? runs?.*tasks\.launch tasks\.train"):
        rank_of(environment, 8)


def test_a_few_calls_are_not_compiled_on_a_cpu_and_give_the_same_bits():
    unsharded = backend(world_size=1)
    unsharded.start()
    network = network_of(RunConfig(world_size=1)).cell(4, unsharded, 1).set_train(False)
    samples = mindspore.Tensor(np.linspace(-1, 1, 4 * 784, dtype=np.float32).reshape(4, 1, 28, 28))
    with unsharded.uncompiled():
        assert mindspore.get_context("mode") == mindspore.PYNATIVE_MODE
        logits = network(samples).asnumpy()
    with pytest.raises(KeyError), unsharded.uncompiled():
        raise KeyError
    assert mindspore.get_context("mode") == mindspore.GRAPH_MODE
    assert logits.std() > 0.01
    np.testing.assert_array_equal(network(samples).asnumpy(), logits)


def test_on_cards_few_calls_are_compiled_too():
    with backend(world_size=8, device_target="Ascend").uncompiled():
        assert mindspore.get_context("mode") == mindspore.GRAPH_MODE


@pytest.fixture
def on_cards(tmp_path):
    """The device backend with its parallel context set, as after `init()` on real cards."""
    write_strategy(strategy_of(network_of(RunConfig()), RunConfig()), tmp_path / "loaded.ckpt")
    cards = backend(
        device_target="GPU",
        strategy_save_file="saved.ckpt",
        strategy_load_file=str(tmp_path / "loaded.ckpt"),
        strategy_only_trainable_params=True,
    )
    assert isinstance(cards, SemiAutoBackend)
    cards.shard_automatically()
    yield cards
    mindspore.reset_auto_parallel_context()


@pytest.mark.parametrize("target", ["GPU", "Ascend"])
def test_each_rank_takes_the_card_of_its_place_on_its_host_before_it_joins_the_others(target, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    calls = []
    monkeypatch.setattr("mindspore.set_device", lambda *arguments: calls.append(("set_device", *arguments)))
    monkeypatch.setattr("shardline.parallel.semi_auto.init", lambda: calls.append(("init",)))
    backend(device_target=target).start()
    mindspore.reset_auto_parallel_context()
    assert calls == [("set_device", target, 3), ("init",)]


def test_on_a_cpu_there_is_one_device(monkeypatch):
    assert device_of("CPU", {"OMPI_COMM_WORLD_LOCAL_RANK": "3"}) == 0
    assert device_of("Ascend", {}) == 0


def test_the_parallel_context_has_all_three_keys_of_strategy_ckpt_config(on_cards, tmp_path):
    assert mindspore.get_auto_parallel_context("parallel_mode") == "semi_auto_parallel"
    assert mindspore.get_auto_parallel_context("dataset_strategy") == "full_batch"
    strategy = mindspore.get_auto_parallel_context("strategy_ckpt_config")
    assert Path(strategy["save_file"]).name == "saved.ckpt"
    assert strategy["load_file"] == str(tmp_path / "loaded.ckpt")
    assert strategy["only_trainable_params"] is True


def test_operators_are_sharded_as_declared_and_the_others_left_to_the_compiler(on_cards):
    network = network_of(on_cards.config)
    strategies = {}
    for operator in network.operators(32):
        primitive = on_cards.primitive(operator).primitive
        assert isinstance(primitive, ops.Primitive)
        strategies[operator.name] = primitive.in_strategy if "in_strategy" in primitive.attrs else None
    assert strategies == {operator.name: operator.splits for operator in network.operators(32)}


def test_the_compilers_strategy_file_is_the_one_published(on_cards, tmp_path):
    compilers = Path(mindspore.get_auto_parallel_context("strategy_ckpt_config")["save_file"])
    write_strategy(strategy_of(network_of(on_cards.config), on_cards.config), compilers)
    on_cards.write_strategy(network_of(on_cards.config), tmp_path / "published.ckpt")
    assert read_strategy(tmp_path / "published.ckpt") == read_strategy(compilers)


def test_on_cards_a_rank_holds_its_stage_and_its_operators_say_theirs():
    config = RunConfig(device_target="GPU", pipeline_stages=2)
    network = network_of(config)
    first, last = (SemiAutoBackend(config, rank, network) for rank in (3, 6))
    assert (first.stage, first.rank_in_stage, last.stage, last.rank_in_stage) == (0, 3, 1, 2)
    assert set(last.layouts) == {f"{prefix}layer3.{name}" for prefix in STATES for name in ("weight", "bias")}
    names = ["layer1.weight", "layer3.weight", "moment1.layer3.weight", "accu_grads.layer3.weight", "global_step"]
    assert [name for name in names if first.holds(name)] == ["layer1.weight", "global_step"]
    assert [name for name in names if last.holds(name)] == ["layer3.weight", "moment1.layer3.weight", "global_step"]
    assert (first.replicas("layer1.weight"), first.replicas("layer2.weight"), last.replicas("layer3.weight")) == (
        2,
        4,
        2,
    )
    stages = {operator.name: first.primitive(operator).pipeline_stage for operator in network.operators(16)}
    assert stages == {operator.name: operator.stage for operator in network.operators(16)}
    assert set(stages.values()) == {0, 1}


def test_a_parameter_is_created_whole_on_cards_and_sliced_on_cpus():
    shape = (784, 512)
    assert backend(device_target="GPU").region("layer1.weight", shape) == (slice(0, 784), slice(0, 512))
    assert backend().region("layer1.weight", shape) == (slice(0, 784), slice(0, 256))


def test_started_without_mpirun_the_task_says_how(tmp_path):
    (tmp_path / "config.json").write_text(RunConfig().to_json())
    command = [sys.executable, "-m", "tasks.train", "--run-directory", str(tmp_path)]
    finished = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith("ConfigError: world_size is 8, but 1 rank runs; start with")
