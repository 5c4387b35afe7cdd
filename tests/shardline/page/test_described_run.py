"""The page of a described training's run: what is known is shown, and what is not known is absent."""

import json

import pytest

from shardline.base.errors import ConfigError
from shardline.page.curves import Curves
from shardline.page.overview import read_overview
from shardline.page.rank_states import describe_ranks, tries
from shardline.page.results import read_merge, read_validation
from shardline.page.shard_map import read_shard_map, strategies_to_show
from shardline.run.adopting import adopter_of
from shardline.run.slices_to_merge import merge_run
from shardline.settings.training import Training
from shardline.settings.training_config import TrainingConfig
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors


@pytest.fixture
def config(run) -> TrainingConfig:
    """The run's, as its first task leaves it."""
    described = {
        "name": "mine",
        "command": ["true"],
        "ranks": 8,
        "slices": {"files": "output/rank_*/*.ckpt", "strategies": "strategy/*.ckpt"},
    }
    config = TrainingConfig(
        training=Training.model_validate_json(json.dumps(described)),
        training_file="/trainings/mine.toml",
        values={"rate": 0.5},
        world_size=8,
        device_target="CPU",
        model_name="mine",
        termination_grace=1,
    )
    (run.path / "output").mkdir()
    (run.path / "src_checkpoints").symlink_to("output")
    run.write_config(config)
    return config


def test_before_training_everything_is_absent_and_nothing_broken(run, files, config):
    found = read_overview(files, Curves(files, run.metrics_file))
    assert found["config"]["world_size"] == 8
    assert found["config"]["values"] == {"rate": 0.5}
    assert (found["dataset"], found["train"], found["promotion"], found["failures"]) == (None, None, None, [])
    assert set(found["progress"].values()) == {None}
    assert read_shard_map(files, strategies_to_show(files)) is None
    merge = read_merge(files)
    assert (merge["shard_sets"], merge["damaged"], merge["record"]) == ([], [], None)
    assert read_validation(files)["report"] is None
    assert tries(files) == []


def test_steps_from_the_log_are_the_curve(run, files, config):
    steps = [{"step": 10, "epoch": 1, "loss": 2.5}, {"step": 20, "epoch": 2, "loss": None}]
    run.metrics_file.write_text("".join(json.dumps(step) + "\n" for step in steps))
    curves = Curves(files, run.metrics_file)
    shown = curves.series("loss", points=100)
    assert (shown["steps"], shown["values"], shown["names"]) == ([10, 20], [2.5, None], ["loss"])
    progress = read_overview(files, curves)["progress"]
    assert (progress["step"], progress["epoch"]) == (20, 2)


def test_ranks_are_known_by_their_witnesses(run, files, config):
    for rank, record in ((0, "finished"), (1, "failure")):
        folder = run.rank_log(rank).parent
        folder.mkdir(parents=True)
        (folder / "stdout").write_text("the last word\n")
        (folder / "started.json").write_text(json.dumps({"rank": rank, "pid": 7, "host": "here", "time": 1.0}))
        (folder / f"{record}.json").write_text(json.dumps({"exit_code": 3}))
    (newest,) = tries(files)
    first, second = describe_ranks(files, newest, running=False)
    assert (first["state"], first["step"], first["last_lines"]) == ("finished", None, ["the last word"])
    assert (second["state"], second["failure"]) == ("failed", "left with exit code 3")


def test_the_shard_map_and_the_merge_are_those_of_adopted_sets(run, files, config):
    save_shards(run.checkpoints, tensors())
    (run.path / "strategy").mkdir()
    save_strategy(run.path / "strategy" / "a.ckpt")
    assert read_shard_map(files, strategies_to_show(files))["step"] is None, "no set is complete yet"
    (adopted,) = adopter_of(run, config, [].append).look(0, has_ended=True)
    step = adopted.shard_set.step
    found = read_shard_map(files, strategies_to_show(files))
    assert (found["step"], found["world_size"]) == (step, 8)
    assert all(row["bytes"] for row in found["parameters"] if row["kind"] == "weight")
    merged = merge_run(run)
    assert (merged["step"], merged["epoch"]) == (step, adopted.shard_set.epoch)
    shown = read_merge(files)
    assert [one["step"] for one in shown["shard_sets"]] == [step]
    assert shown["record"]["inputs"]["files"] == 8
    content = (run.merged / "model.ckpt").read_bytes()
    (run.merged / "model.ckpt").unlink()
    merge_run(run)
    assert (run.merged / "model.ckpt").read_bytes() == content, "cleared and run again, it is the same"


def test_a_damaged_strategy_or_configuration_is_said(run, files, config):
    document = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps(document | {"training": {}}))
    with pytest.raises(ConfigError, match=r"training\.name: Field required"):
        strategies_to_show(files)
