"""What the campaign begins with: runs that nothing disturbed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig
from tests.campaign.begins import Begins
from tests.campaign.trial import TRAINING, Trial
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A home as training leaves it, of eight ranks, and the bytes of an undisturbed merge."""
    trial = Trial(tmp_path_factory.mktemp("saved") / "home")
    trial.run.path.mkdir(parents=True)
    config = RunConfig()
    trial.run.write_config(config)
    strategy = save_strategy(trial.run.strategy_file(config))
    save_shards(trial.run.checkpoints, tensors())
    save_manifest(trial.run.checkpoints, strategy)
    undisturbed = Trial(trial.home.with_name("undisturbed"))
    shutil.copytree(trial.home, undisturbed.home)
    undisturbed.succeed("merge")
    undisturbed.succeed("promote")
    merged = (undisturbed.run.merged / "model.ckpt").read_bytes()
    undisturbed.check_ends_undisturbed(merged)
    return trial.home, merged


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A home that is prepared for a training of four ranks, and what an undisturbed one is merged into."""
    trial = Trial(tmp_path_factory.mktemp("trained") / "home")
    prepare = [sys.executable, "-m", "tasks.prepare_dataset", "--parameters", json.dumps(TRAINING)]
    environment = os.environ | {"SHARDLINE_HOME": str(trial.home)}
    subprocess.run([*prepare, "--run-directory", str(trial.run.path)], cwd=PROJECT, env=environment, check=True)
    undisturbed = Trial(trial.home.with_name("undisturbed"))
    shutil.copytree(trial.home, undisturbed.home)
    for task in ("train", "merge", "promote"):
        undisturbed.succeed(task)
    return trial.home, (undisturbed.run.merged / "model.ckpt").read_bytes()


@pytest.fixture(scope="session")
def begins(saved: tuple[Path, bytes], trained: tuple[Path, bytes], tmp_path_factory: pytest.TempPathFactory) -> Begins:
    """Where each task begins, made by the tasks before it."""
    folder = tmp_path_factory.mktemp("begins")
    (folder / "nothing" / "runs" / "training" / "run").mkdir(parents=True)
    merged, promoted = Trial(folder / "merged"), Trial(folder / "promoted")
    shutil.copytree(saved[0], merged.home)
    merged.succeed("merge")
    shutil.copytree(merged.home, promoted.home, symlinks=True)
    promoted.succeed("promote")
    return Begins(folder, saved, trained)
