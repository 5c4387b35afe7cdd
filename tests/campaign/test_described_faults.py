"""A program of one's own, as docs/own-training.md has it, killed while it saves: done again it goes on from the newest
set that all ranks had saved, and ends with the same bytes."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home
from shardline.run.environment import PROJECT
from shardline.store.model_store import ModelStore
from tests.campaign.kinds import Fault
from tests.campaign.training_faults import DESCRIBED
from tests.campaign.trial import Trial, check_ended, tried
from tests.docs.test_own_training import DESCRIPTION, JUDGE, TRAIN
from tests.patience import PATIENCE_S
from tests.protocol.invariants import leftovers

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * PATIENCE_S)]
LAST = 200
"""The step that ends it: ten an epoch."""


def begin(folder: Path, launcher: object) -> Trial:
    """A run that is prepared, of the page's program as `launcher` starts it."""
    (trainings := folder / "trainings").mkdir(parents=True)
    program = TRAIN
    for mpirun, msrun in (("OMPI_COMM_WORLD_RANK", "RANK_ID"), ("OMPI_COMM_WORLD_SIZE", "RANK_SIZE")):
        program = program.replace(mpirun, msrun if launcher == "msrun" else mpirun)
    description = DESCRIPTION.replace('launcher = "mpirun"', f'launcher = "{launcher}"').replace(
        'command = ["{python}", "{training_folder}/train.py"',
        f'environment = {{ PYTHONPATH = "{PROJECT}" }}\n'
        'command = ["{python}", "-m", "tests.campaign.faulty_program", "{training_folder}/train.py"',
    )
    assert "faulty_program" in description
    for name, text in (("train.py", program), ("judge.py", JUDGE), ("linear.toml", description)):
        (trainings / name).write_text(text)
    trial = Trial(folder / "home")
    trial.run.path.mkdir(parents=True)
    trial.variables["SHARDLINE_TRAININGS"] = str(trainings)
    trial.succeed("prepare_training")
    return trial


def finish(trial: Trial) -> bytes:
    """The rest of the run; the bytes of its one version."""
    for task in ("merge", "validate", "promote"):
        done = trial.task(task)
        assert done.returncode == 0, done.stdout + done.stderr
    trial.check_no_orphan()
    merged = trial.run.merged / "model.safetensors"
    verify(merged, workers=1)
    (version,) = ModelStore(Home(trial.home), "linear").versions()
    version.verify()
    assert (version.version, version.step, version.model_file.read_bytes()) == (1, LAST, merged.read_bytes())
    assert not leftovers(trial.home)
    return merged.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What it is merged into where nothing happens to it."""
    trial = begin(tmp_path_factory.mktemp("described"), "mpirun")
    trial.succeed("train")
    return finish(trial)


@pytest.mark.parametrize("fault", DESCRIBED, ids=lambda fault: fault.kind)
def test_a_program_of_ones_own_that_is_killed_while_it_saves(undisturbed: bytes, tmp_path: Path, fault: Fault) -> None:
    def run() -> None:
        trial = begin(tmp_path, fault.parameters.get("launcher", "mpirun"))
        trial.variables["FAULT"] = json.dumps({**asdict(fault), "run": str(trial.run.path)})
        check_ended(trial.task("train"), fault)
        del trial.variables["FAULT"]
        trial.check_no_orphan()
        assert not (trial.run.path / "checkpoint/rank_1/linear-4_10.safetensors").exists()
        begun = [*(trial.run.path / "checkpoint/rank_1").glob(".tmp*")]  # as safetensors calls it until it is written
        assert len(begun) == (fault.act == "cut")
        steps = ShardSet.steps(trial.run.checkpoints)
        for step in steps:
            ShardSet.read(ShardSet.path(trial.run.checkpoints, step)).verify(trial.run.checkpoints)
        assert steps[-1] == fault.newest
        done = trial.task("train")
        assert done.returncode == 0, done.stderr
        assert re.search(f"goes on from shard set {fault.newest}", done.stdout + done.stderr), done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["step"] == LAST
        assert finish(trial) == undisturbed

    tried(fault.kind, run, fault.seed)
