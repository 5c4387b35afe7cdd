"""`strategy_load_file`: a network sharded as a file says, or a refusal that says what differs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from shardline.base.errors import ConfigError, MissingShard
from shardline.checkpoint.strategy.strategy_file import write_strategy
from shardline.networks.declaration import Network
from shardline.parallel.layouts import strategy_of
from shardline.parallel.strategies import with_strategies_of
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig
from tests.rehearsal.networks import TENSOR_PARALLEL

CONFIG = RunConfig()
MLP = network_of(CONFIG)
FIXTURES = Path(__file__).parents[2] / "fixtures" / "strategy"


def saved(network: Network, folder: Path, **parameters: Any) -> Path:
    file = folder / "strategy.ckpt"
    write_strategy(strategy_of(network, RunConfig(**parameters)), file)
    return file


def test_the_compilers_own_file_gives_the_declared_strategies():
    found = with_strategies_of(MLP.with_strategies({}), FIXTURES / "tutorial_sgd.ckpt", 8)
    assert found.operators(32) == MLP.operators(32)


def test_a_file_overrides_what_was_declared(tmp_path):
    other = MLP.with_strategies({"MatMul_layer2.weight": ((1, 2), (2, 4)), "Add_layer1.bias": ((2, 4), (4,))})
    assert with_strategies_of(MLP, saved(other, tmp_path), 8).operators(32) == other.operators(32)


def test_a_file_of_another_network_is_refused(tmp_path):
    with pytest.raises(ConfigError) as refused:
        with_strategies_of(MLP, saved(TENSOR_PARALLEL, tmp_path, batch_size=256), 8)
    assert "MatMul_layer1.weight" in str(refused.value)
    assert "Add_down.bias" in str(refused.value)


def test_a_file_for_another_number_of_ranks_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"for 4 ranks .* found world_size 8"):
        with_strategies_of(MLP, saved(MLP, tmp_path, world_size=4), 8)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingShard, match=r"nothing\.ckpt"):
        with_strategies_of(MLP, tmp_path / "nothing.ckpt", 8)


def test_a_file_without_layouts_still_names_its_operators(tmp_path):
    strategy = dataclasses.replace(strategy_of(MLP, CONFIG), layouts={})
    write_strategy(strategy, tmp_path / "strategy.ckpt")
    assert with_strategies_of(MLP, tmp_path / "strategy.ckpt", 8).operators(32) == MLP.operators(32)
