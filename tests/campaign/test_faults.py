"""Every kind of failure, run to its end: what failed says so, and done again it ends like a run that nothing disturbed.

Compared are the merged bytes and the versions of the store; there is no process left, and nothing of a task at work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from shardline.base.digest import file_digest
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch.records import rank_folder
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import ModelStore
from tests.campaign.faults import FAILS, FROM_OUTSIDE, IN_A_RANK, IN_PROCESS, KILLED, Fault, Loss
from tests.campaign_record import record
from tests.patience import PATIENCE_S
from tests.processes import environment_of
from tests.protocol.invariants import leftovers
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors
from tests.shardline.training import runs

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * PATIENCE_S)]
MODEL = "mnist-mlp"
TRAINING = {"world_size": 4, "batch_size": 640, "epochs": 1, "save_checkpoint_steps": 4}
HANG_TIMEOUT_S = 120
"""For the rank that is stopped alone: of a module that is none of the pipeline's, the start counts, too."""


class Trial:
    """A run in a home of its own, whose tasks are started as the DAG starts them."""

    def __init__(self, home: Path) -> None:
        self.home, self.run = home, RunDirectory(home / "runs" / "training" / "run")

    def task(self, name: str, fault: Fault | None = None) -> subprocess.CompletedProcess[str]:
        module = {"train": ["tasks.launch", "tasks.train"]}.get(name, [f"tasks.{name}"])
        environment = os.environ | {"SHARDLINE_HOME": str(self.home)}
        if fault is not None:
            said = {**asdict(fault), "run": str(self.run.path), "module": module[-1]}
            environment["FAULT"] = json.dumps(said)
            module[-1] = "tests.campaign.faulty"
        return subprocess.run(
            [sys.executable, "-m", *module, "--run-directory", str(self.run.path)],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def succeed(self, name: str) -> None:
        done = self.task(name)
        assert done.returncode == 0, done.stdout + done.stderr
        if name == "merge":
            self._report()

    def _report(self) -> None:
        """As validation leaves it, which the campaign does not disturb: its task reads, and writes one file."""
        self.run.validation.mkdir(exist_ok=True)
        report = {"passed": True, "failures": [], "metric": "accuracy", "accuracy": 0.9}
        merged = {"digest": file_digest(self.run.merged / "model.ckpt")}
        self.run.report_file.write_text(json.dumps({**report, "merged": merged}))

    def processes(self) -> list[psutil.Process]:
        return [each for each in psutil.process_iter() if environment_of(each).get("SHARDLINE_HOME") == str(self.home)]

    def check_no_orphan(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.1)

    def check_ends_undisturbed(self, expected: bytes) -> None:
        """The merged bytes, the one version, and nothing else."""
        verify(self.run.merged / "model.ckpt", workers=1)
        assert (self.run.merged / "model.ckpt").read_bytes() == expected
        assert sorted(path.name for path in self.run.merged.iterdir()) == ["model.ckpt", "model.ckpt.merge.json"]
        store = ModelStore(Home(self.home), MODEL)
        assert [version.version for version in store.versions()] == [1]
        version = store.current()
        assert version is not None
        version.verify()
        assert version.model_file.read_bytes() == expected
        assert not leftovers(self.home)


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


def tried(kind: str, trial: Callable[[], None]) -> None:
    """Try `kind`, and record how it ended."""
    try:
        trial()
    except BaseException as error:
        record("faults", kind, tries=1, failed=[f"{type(error).__name__}: {error!s:.500}"], seed=None)
        raise
    record("faults", kind, tries=1, failed=[], seed=None)


def check_ended(done: subprocess.CompletedProcess[str], fault: Fault) -> None:
    """As the fault says; where it fails, by one message of ours, the last line."""
    printed = done.stdout + done.stderr
    if fault.ends == KILLED:
        assert done.returncode == -signal.SIGKILL, printed
    elif fault.ends == FAILS:
        assert done.returncode != 0, printed
        assert re.search(fault.message, done.stderr, re.DOTALL), printed
        assert fault.act == "term" or "Traceback" not in done.stderr, printed
    else:
        assert done.returncode == 0, printed
        assert re.search(fault.message, done.stderr, re.DOTALL), printed


@pytest.mark.parametrize("fault", IN_PROCESS, ids=lambda fault: fault.kind)
def test_a_task_that_is_disturbed(saved: tuple[Path, bytes], tmp_path: Path, fault: Fault) -> None:
    def run() -> None:
        trial = Trial(tmp_path / "home")
        shutil.copytree(saved[0], trial.home)
        if fault.task == "promote":
            trial.succeed("merge")
        slices = {file: file.read_bytes() for file in trial.run.checkpoints.rglob("*.ckpt")}
        check_ended(trial.task(fault.task, fault), fault)
        trial.check_no_orphan()
        for file, content in slices.items():  # restored, as the message says
            file.write_bytes(content)
        for task in ("merge", "promote"):
            trial.succeed(task)
        trial.check_ends_undisturbed(saved[1])

    tried(fault.kind, run)


@pytest.mark.parametrize("fault", IN_A_RANK, ids=lambda fault: fault.kind)
def test_a_training_with_a_fault_in_a_rank(trained: tuple[Path, bytes], tmp_path: Path, fault: Fault) -> None:
    def run() -> None:
        trial = Trial(tmp_path / "home")
        shutil.copytree(trained[0], trial.home)
        if fault.act == "stop":
            trial.run.write_config(trial.run.read_config().model_copy(update={"hang_timeout": HANG_TIMEOUT_S}))
        check_ended(trial.task("train", fault), fault)
        finish(trial, trained[1])

    tried(fault.kind, run)


@pytest.mark.parametrize("loss", FROM_OUTSIDE, ids=lambda loss: loss.kind)
def test_a_training_that_loses_a_process(trained: tuple[Path, bytes], tmp_path: Path, loss: Loss) -> None:
    def run() -> None:
        trial = Trial(tmp_path / "home")
        shutil.copytree(trained[0], trial.home)
        process = runs.start_and_wait_for_a_shard_set(trial.run, trial.home)
        for victim in victims(loss, trial, process):
            victim.send_signal(signal.SIGKILL)
        printed, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode != 0
        assert re.search(loss.message, errors, re.DOTALL), printed + errors
        finish(trial, trained[1])

    tried(loss.kind, run)


def victims(loss: Loss, trial: Trial, supervisor: subprocess.Popen[str]) -> list[psutil.Process]:
    started = rank_folder(trial.run.logs, 1).read_started()
    assert started is not None
    rank = psutil.Process(started.pid)
    witness = rank.parent()
    assert witness is not None
    named = {"rank": rank, "witness": witness, "mpirun": witness.parent(), "supervisor": psutil.Process(supervisor.pid)}
    return trial.processes() if loss.victim == "all" else [named[loss.victim]]


def finish(trial: Trial, expected: bytes) -> None:
    """After a training that was disturbed: all again, to the same bytes."""
    trial.check_no_orphan()
    for task in ("train", "merge", "promote"):
        trial.succeed(task)
    assert ShardSet.steps(trial.run.checkpoints)[-1] == 7
    trial.check_no_orphan()
    trial.check_ends_undisturbed(expected)
