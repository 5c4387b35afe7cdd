"""What the shard sets of a run in pipeline stages are made with, and which files say so."""

import json

import pytest

from shardline.checkpoint.strategy.strategy_file import layouts_by_stage, read_strategy
from shardline.parallel.layouts import layouts_of
from shardline.parallel.single_device import SingleDevice
from shardline.recipes.lookup import network_of
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.training.provenance import Provenance, provenance_of
from tests.shardline.parallel.stages import GPT_IN_STAGES


class Rank(SingleDevice):
    """A rank that needs no others for a barrier."""

    def barrier(self) -> None:
        """They are all here."""


@pytest.mark.parametrize("name", ["src_strategy.ckpt", "strategy.json"])
def test_all_ranks_know_every_stages_strategy(tmp_path, name):
    config = RunConfig(**GPT_IN_STAGES, strategy_save_file=name)
    network, run = network_of(config), RunDirectory(tmp_path)
    run.dataset_file.write_text(json.dumps({"digest": "d"}))
    ranks = [Rank(config, rank, network) for rank in range(8)]
    for rank in ranks:
        rank.write_strategy(network, tmp_path / ".strategy" / f"rank_{rank.rank}" / name)
    first, *others = (provenance_of(run, config, network, rank) for rank in ranks)
    assert all(other == first for other in others)
    first.write(run, config)
    whole = run.strategy_file(config)
    files = [run.stage_strategy_file(config, stage) for stage in (0, 1)]
    assert [file.name for file in files] == [whole.name.replace(".", f"_stage_{stage}.") for stage in (0, 1)]
    in_one = layouts_by_stage([(whole, read_strategy(whole))])
    assert in_one == layouts_by_stage([(file, read_strategy(file)) for file in files])
    assert [dict(stage) for stage in in_one.stages] == [layouts_of(network, config, stage) for stage in (0, 1)]
    assert run.strategy_saved_with(first.strategy_digest).read_bytes() == whole.read_bytes()


def test_files_of_stages_that_are_no_more_are_removed(tmp_path):
    config, run = RunConfig(**GPT_IN_STAGES), RunDirectory(tmp_path)
    Provenance(b"all", {}, (b"0", b"1", b"2")).write(run, config)
    Provenance(b"others", {}, (b"0", b"1")).write(run, config)
    assert sorted(file.name for file in tmp_path.glob("*_stage_*")) == [f"src_strategy_stage_{n}.ckpt" for n in (0, 1)]
    Provenance(b"one", {}).write(run, config.model_copy(update={"pipeline_stages": 1}))
    assert sorted(file.name for file in tmp_path.glob("src_strategy*")) == ["src_strategy.ckpt"]
