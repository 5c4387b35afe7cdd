"""A network of the user's own, named by its module and factory, through all tasks on 4 ranks."""

from __future__ import annotations

import json

import pytest

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.strategy.strategy_file import read_strategy
from shardline.parallel.backends import backend_of
from shardline.recipes.lookup import train_spec
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from tests.shardline.recipes.whole_run import finished_run

NETWORK = "shardline.recipes.examples.residual_mlp:residual_mlp"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run on 4 ranks."""
    asked = {"world_size": 4, "batch_size": 64, "epochs": 1, "min_accuracy": 0.7}
    return finished_run(tmp_path_factory.mktemp("home"), network=NETWORK, **asked)


def test_it_learns_the_digits_and_is_promoted(run: RunDirectory):
    report = json.loads(run.report_file.read_bytes())
    assert report["passed"] is True
    assert report["accuracy"] >= 0.7
    promotion = json.loads(run.promotion_file.read_bytes())
    assert promotion["accuracy"] == report["accuracy"]
    assert promotion["path"].endswith("/models/residual_mlp/versions/1")


def test_the_merged_model_computes_what_the_ranks_computed(run: RunDirectory):
    report = json.loads(run.report_file.read_bytes())
    assert report["sharded_logits"]["samples"] == 64
    assert report["sharded_logits"]["relative_difference"] <= 1e-5


def test_every_rank_held_its_slices_alone(run: RunDirectory):
    shapes = {"entry.weight": (392, 128), "blocks.1.up.weight": (128, 256), "blocks.1.up.bias": (256,)}
    for rank in range(4):
        file = next((run.checkpoints / f"rank_{rank}").glob("*.ckpt"))
        saved = read_checkpoint(file)
        assert {name: saved[name].shape for name in shapes} == shapes
        assert saved["moment1.blocks.0.down.weight"].shape == (256, 128)


def test_the_strategies_are_the_declared_ones(run: RunDirectory):
    strategy = read_strategy(run.strategy_file(run.read_config()))
    assert strategy.operators["MatMul_blocks.0.up.weight"].strategy == ((2, 1), (1, 2))
    assert strategy.layouts["blocks.0.up.weight"].slice_shape((128, 512)) == (128, 256)


@pytest.mark.parametrize(("ranks", "cuts"), [(2, ((2, 1), (1, 1))), (8, ((2, 1), (1, 4)))], ids=str)
def test_its_hidden_units_are_cut_over_any_number_of_ranks(ranks: int, cuts: tuple[tuple[int, ...], ...]):
    config = RunConfig(network=NETWORK, world_size=ranks)
    splits = {each.name: each.splits for each in train_spec(config).network.operators(config.batch_size)}
    assert splits["MatMul_blocks.0.up.weight"] == cuts


def test_its_cell_has_the_parameters_that_were_declared():
    config = RunConfig(network=NETWORK, world_size=1)
    network = train_spec(config).network
    backend = backend_of(config, network, rank=0)
    backend.start()
    cell = network.cell(4, backend, seed=1)
    assert {parameter.name: parameter.shape for parameter in cell.trainable_params()} == network.parameters()
