"""Starting ranks with mpirun, and what they computed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardline.run.environment import PROJECT
from tests.plain_training import samples_of

OPTIONS = ("--oversubscribe", "--allow-run-as-root", "--bind-to", "none")


@dataclass(frozen=True)
class Outcome:
    """What `tests.shardline.parallel.sharded_losses` leaves, by rank, and by the name of a run.

    `outcomes` have a row for every step: loss, learning rate, norm of the gradients.
    """

    outcomes: list
    logits: list
    parameters: list

    @property
    def losses(self):
        return [{name: steps[:, 0] for name, steps in rank.items()} for rank in self.outcomes]


def train(folder, world_size, runs):
    """Train `runs`, one after another, on `world_size` ranks."""
    (folder / "settings.json").write_text(json.dumps(runs))
    for network in {run["network"] for run in runs}:  # read once: the digits take longer than their training
        np.savez(folder / f"{network}.npz", *samples_of(network.rpartition(":")[2]))
    command = ["tests.shardline.parallel.sharded_losses", folder]
    finished = subprocess.run(
        [*mpirun(world_size), sys.executable, "-m", *command],
        cwd=PROJECT,
        env=rank_environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    parts = (
        [dict(np.load(folder / f"ranks.{part}{rank}.npz")) for rank in range(world_size)]
        for part in ("losses.", "logits.", "")
    )
    return Outcome(*parts)


def mpirun(world_size):
    found = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, "mpirun is among the project's requirements"
    return [found, *OPTIONS, "-n", str(world_size)]


def rank_environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}
