"""The task train from beginning to end: what it leaves in the run directory, and that it is true."""

import json
import re
from pathlib import Path

import numpy as np

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.strategy_file import read_strategy
from shardline.parallel.layouts import strategy_of
from shardline.recipes.lookup import network_of
from tests.shardline.training.runs import LAST, losses, slices, whole


def test_the_result_names_what_was_made(uninterrupted):
    run, result, output, _ = uninterrupted
    assert result["run_directory"] == str(run.path)
    assert (result["step"], result["epoch"]) == (LAST, 2)
    assert Path(result["shard_set"]) == ShardSet.path(run.checkpoints, LAST)
    assert Path(result["strategy_file"]).is_file()
    assert result["loss"] == losses(run)[-1][1]
    assert len(output.strip().splitlines()[-1]) < 1000, "an XCom stays small"


def test_files_and_lines_are_as_in_the_tutorial(uninterrupted):
    run, output = uninterrupted.run, uninterrupted.output
    assert ShardSet.steps(run.checkpoints) == [12, 14], "the last step is always saved, and two sets are kept"
    for rank in range(4):
        names = sorted(path.name for path in (run.checkpoints / f"rank_{rank}").iterdir())
        assert names == ["checkpoint-2_5.ckpt", "checkpoint-2_7.ckpt"]
        assert run.rank_log(rank).is_file()
    assert run.strategy_file(run.read_config()).name == "src_strategy.ckpt"
    assert re.fullmatch(r'\{"run_directory".*\}', output.splitlines()[-1])


def test_every_rank_saves_its_slices_and_no_more(uninterrupted):
    run = uninterrupted.run
    config = run.read_config()
    strategy = read_strategy(run.strategy_file(config))
    assert strategy == strategy_of(network_of(config), config)
    ranks = slices(run, LAST)
    for held in ranks:
        assert held["layer1.weight"].shape == (784, 256)
        assert held["moment2.layer3.weight"].shape == (256, 10)
        assert held["layer2.weight"].shape == (512, 512)
        assert held["global_step"].item() == LAST
    for name, layout in strategy.layouts.items():
        for group in layout.replica_groups():
            assert len({ranks[rank][name].tobytes() for rank in group}) == 1, name


def test_metrics_have_every_steps_loss_and_every_epochs_throughput(uninterrupted):
    run = uninterrupted.run
    found = losses(run)
    assert [step for step, _ in found] == list(range(1, LAST + 1))
    assert found[-1][1] < found[0][1] / 2, "it learns"
    records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [record["epoch"] for record in records if "step" not in record] == [1, 2]
    assert all(record["samples_per_second"] > 0 for record in records)
    assert {"imports", "cluster", "compile", "steps", "save"} <= set(uninterrupted.record["phases"])


def test_reference_logits_are_those_of_the_trained_weights(uninterrupted):
    run = uninterrupted.run
    reference = np.load(run.reference_logits_file)
    assert reference["samples"].shape == (64, 1, 28, 28)
    weights = whole(run, LAST)
    activation = reference["samples"].reshape(64, -1)
    for layer in ("layer1", "layer2", "layer3"):
        activation = activation @ weights[f"{layer}.weight"] + weights[f"{layer}.bias"]
        activation = np.maximum(activation, 0) if layer != "layer3" else activation
    np.testing.assert_allclose(reference["logits"], activation, rtol=1e-4, atol=1e-5)
    assert (reference["logits"].argmax(1) == reference["labels"]).mean() > 0.7
