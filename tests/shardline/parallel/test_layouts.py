"""Our strategy files against those that MindSpore's compiler wrote (tests/fixtures/strategy), item for item."""

from pathlib import Path

import pytest

from shardline.checkpoint.strategy.strategy_file import read_strategy, without_compilers_own, write_strategy
from shardline.parallel.layouts import strategy_of
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig
from tests.rehearsal.networks import TENSOR_PARALLEL
from tests.shardline.parallel.stages import GPT_IN_STAGES

FIXTURES = Path(__file__).parents[2] / "fixtures" / "strategy"


def assert_equal_items(ours, theirs):
    assert dict(ours.operators) == dict(theirs.operators)
    assert dict(ours.layouts) == dict(theirs.layouts)
    assert (ours.stage, ours.current_stage) == (theirs.stage, theirs.current_stage)


def test_the_tutorials_network_with_sgd():
    config = RunConfig(optimizer="SGD")
    assert_equal_items(strategy_of(network_of(config), config), read_strategy(FIXTURES / "tutorial_sgd.ckpt"))


def test_tensor_parallel_layers_with_split_biases_and_adam():
    ours = strategy_of(TENSOR_PARALLEL, RunConfig(optimizer="Adam", batch_size=256))
    assert_equal_items(ours, read_strategy(FIXTURES / "tensor_parallel_adam.ckpt"))


def test_optimizer_sharding_of_the_tutorials_network():
    config = RunConfig(optimizer="Adam", enable_parallel_optimizer=True)
    theirs = read_strategy(FIXTURES / "tutorial_adam_optimizer_sharded.ckpt")
    assert_equal_items(strategy_of(network_of(config), config), theirs)


@pytest.mark.parametrize("name", ["gpt", "gpt_optimizer_sharded"])
def test_a_transformer_with_data_and_tensor_parallelism(name):
    config = RunConfig(
        network="gpt",
        layers=1,
        hidden_size=32,
        sequence_length=16,
        batch_size=8,
        world_size=4,
        tensor_parallel=2,
        optimizer="AdamW",
        enable_parallel_optimizer=name == "gpt_optimizer_sharded",
    )
    ours, theirs = strategy_of(network_of(config), config), read_strategy(FIXTURES / f"{name}.ckpt")
    assert dict(ours.operators) == dict(theirs.operators)
    assert dict(ours.layouts) == dict(theirs.layouts)


def test_the_json_form_has_the_whole_shapes():
    ours = strategy_of(TENSOR_PARALLEL, RunConfig(optimizer="SGD", strategy_save_file="strategy.json"))
    assert_equal_items(ours, read_strategy(FIXTURES / "tensor_parallel_sgd.json"))


def test_only_trainable_parameters_changes_nothing_as_in_mindspore_whose_optimizer_states_are_trainable():
    config = RunConfig(optimizer="SGD", strategy_only_trainable_params=True)
    assert_equal_items(strategy_of(network_of(config), config), read_strategy(FIXTURES / "tutorial_sgd.ckpt"))


@pytest.mark.parametrize("stage", [0, 1])
def test_a_transformer_in_pipeline_stages(stage):
    config = RunConfig(**GPT_IN_STAGES)
    ours = strategy_of(network_of(config), config, stage)
    theirs = read_strategy(FIXTURES / f"gpt_2_stages_optimizer_sharded_stage{stage}.ckpt")
    assert any(name.startswith("accu_grads.") for name in theirs.layouts)
    assert dict(ours.operators) == dict(without_compilers_own(theirs).operators)
    assert dict(ours.layouts) == dict(without_compilers_own(theirs).layouts)


@pytest.mark.parametrize("world_size", [1, 4, 16])
def test_any_number_of_ranks_has_a_strategy_file(tmp_path, world_size):
    config = RunConfig(world_size=world_size)
    strategy = strategy_of(network_of(config), config)
    write_strategy(strategy, tmp_path / "strategy.ckpt")
    assert read_strategy(tmp_path / "strategy.ckpt") == strategy
    assert {layout.world_size for layout in strategy.layouts.values()} == {world_size}
