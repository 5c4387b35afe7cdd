"""The tutorial's cell, as it ships, through all tasks on 4 ranks; what it computes: `parallel/test_cell_losses.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shardline.recipes.whole_run import finished_run

NETWORK = "shardline.recipes.examples.tutorial:tutorial"


@pytest.mark.soak
def test_it_is_trained_merged_validated_and_promoted(tmp_path: Path):
    run = finished_run(tmp_path, network=NETWORK, world_size=4, batch_size=64, epochs=1, min_accuracy=0.7)
    report = json.loads(run.report_file.read_bytes())
    assert report["accuracy"] >= 0.7
    assert report["sharded_logits"]["decisions_changed"] == 0
    assert json.loads(run.promotion_file.read_bytes())["path"].endswith("/models/tutorial/versions/1")
