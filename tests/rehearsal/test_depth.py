"""The device path's own cells, as deep as those that are trained on cards."""

import pytest

from shardline.checkpoint.strategy.strategy_file import read_strategy
from shardline.parallel.layouts import strategy_of
from shardline.settings.run_config import RunConfig
from tests.rehearsal.networks import rehearsed
from tests.rehearsal.rehearse import describe, launch
from tests.rehearsal.test_device_path import GPT

BLOCKS = 48

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def test_48_blocks_compile_for_8_cards_and_are_sharded_as_we_say(cuda, tmp_path):
    """Two minutes of a core and 6 GB, of the one rank that compiles."""
    config = RunConfig(device_target="GPU", network="gpt", **GPT | {"layers": BLOCKS, "hidden_size": 16})
    run = tmp_path / "deep"
    describe(run, "gpt", config, [0])
    outcome = launch(cuda, [run], ranks=config.world_size)
    assert outcome.returncode == 0, outcome.stdout
    ours = strategy_of(rehearsed(config, "gpt", None), config)
    theirs = read_strategy(run / "rank_0" / config.strategy_save_file)
    assert len(ours.operators) > 14 * BLOCKS
    assert dict(theirs.operators) == dict(ours.operators)
    assert dict(theirs.layouts) == dict(ours.layouts)
