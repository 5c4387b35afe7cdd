"""A run that was really trained, by one rank in this process: its own record says what is a weight."""

import pytest

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.recipes.lookup import network_of
from shardline.run.slices_to_merge import merge_run
from tests.shardline.training.in_process import new_context, save, take_step


@pytest.mark.parametrize("optimizer", ["SGD", "Momentum", "Adam"])
def test_a_run_of_trainable_parameters_alone_is_merged_by_the_record_of_its_training(tmp_path, optimizer):
    context = new_context(tmp_path, optimizer=optimizer, strategy_only_trainable_params=True)
    take_step(context)
    save(context, 5)
    context.run.write_config(context.config)
    told = []
    result = merge_run(context.run, tell=told.append)
    own = set(network_of(context.config).parameters())
    saved = {parameter.name for parameter in context.cell.get_parameters()}
    assert own < saved
    assert set(read_checkpoint(tmp_path / "merged" / "model.ckpt")) == own
    assert result["step"] == 5
    assert any("training's own record says so" in notice for merged in told for notice in merged.notices)
