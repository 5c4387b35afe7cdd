"""A run in a home of its own, whose tasks the campaign disturbs, does again, and compares with undisturbed ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from shardline.base.digest import file_digest
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.store.model_store import ModelStore
from tests.campaign.commands import COMMANDS
from tests.campaign.kinds import FAILS, KILLED, Fault
from tests.campaign_record import record
from tests.patience import PATIENCE_S
from tests.processes import environment_of
from tests.protocol.invariants import leftovers, whole_set
from tests.shardline.launch.network_hosts import NetworkHost

MODEL = "mnist-mlp"
TRAINING = {"world_size": 4, "batch_size": 640, "epochs": 1, "save_checkpoint_steps": 4, "min_accuracy": 0.5}
PARTS = {
    "merge.plan": ("plan", "--parts", "2"),
    "merge.write-1": ("write", "--part", "1/2"),
    "merge.write-2": ("write", "--part", "2/2"),
    "merge.commit": ("commit",),
}
"""The tasks of a merge in parts, in their order."""
HANG_TIMEOUT_S = 120
"""For the rank that is stopped alone: of a module that is none of the pipeline's, the start counts, too."""


class Trial:
    """A run in a home of its own, whose tasks are started as the DAG starts them."""

    def __init__(self, home: Path) -> None:
        self.home, self.run = home, RunDirectory(home / "runs" / "training" / "run")
        self.variables: dict[str, str] = {}
        """Of its tasks' environment, beside `SHARDLINE_HOME`."""
        self.launcher: NetworkHost | None = None
        """Where its ranks are launched; None is here."""

    def task(
        self, name: str, fault: Fault | None = None, in_a_rank: bool = True, **others: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a task to its end, with `fault`, and what is said of it beside, in its process, or that of a rank."""
        process = self.start(name, fault, in_a_rank, **others)
        try:
            printed, errors = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)

    def start(
        self, name: str, fault: Fault | None = None, in_a_rank: bool = True, **others: object
    ) -> subprocess.Popen[str]:
        """Start a task, as `task` does."""
        command = self._command(name)
        environment = os.environ | {"SHARDLINE_HOME": str(self.home)} | self.variables
        if name in COMMANDS:
            environment |= COMMANDS[name].variables(self.home)
        if fault is not None:
            place = 1 if command[0] == "tasks.launch" and in_a_rank else 0
            run = self.home if name in COMMANDS else self.run.path
            said = {**asdict(fault), "run": str(run), "module": command[place], **others}
            environment["FAULT"] = json.dumps(said)
            command[place] = "tests.campaign.faulty"
        python = [sys.executable, "-m", *command]
        if self.launcher and "tasks.launch" in python:
            python = self.launcher.command(*python, folder=PROJECT)
        return subprocess.Popen(
            python,
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _command(self, name: str) -> list[str]:
        if name in COMMANDS:
            return COMMANDS[name].spelt(self.home)
        directory = ["--run-directory", str(self.run.path)]
        commands = {
            "prepare_dataset": ["tasks.prepare_dataset", "--parameters", json.dumps(TRAINING), *directory],
            "prepare_training": ["tasks.prepare_training", "linear.toml", *directory],
            "pausing": ["tasks.launch", "tests.shardline.training.pausing", *directory],
            "merge_checkpoint": [
                *("tasks.merge_checkpoint", "--parameters", json.dumps({"run": "training/run"})),
                *("--run-directory", str(self.on_request.path)),
            ],
            "housekeeping": [
                "tasks.housekeeping",
                "free",
                "--parameters",
                json.dumps({"keep_runs": 0, "merged": True}),
            ],
        }
        commands |= {task: ["tasks.merge_parts", *step, *directory] for task, step in PARTS.items()}
        launched = ["tasks.launch"] if name in ("train", "validate") else []
        return commands.get(name, [*launched, f"tasks.{name}", *directory])

    def change(self, parameters: Mapping[str, object]) -> None:
        """Have the run's tasks use other `parameters` from now on."""
        if parameters:
            self.run.write_config(self.run.read_config().model_copy(update=dict(parameters)))

    @property
    def on_request(self) -> RunDirectory:
        """Where merge_checkpoint merges the run again."""
        return RunDirectory(self.home / "runs" / "merging" / "run")

    def succeed(self, name: str) -> None:
        done = self.task(name)
        assert done.returncode == 0, done.stdout + done.stderr
        if name in ("merge", "merge.commit"):
            self._report()

    def _report(self) -> None:
        """As validation leaves it, which the campaign does not disturb: its task reads, and writes one file."""
        self.run.validation.mkdir(exist_ok=True)
        report = {"passed": True, "failures": [], "metric": "accuracy", "accuracy": 0.9}
        merged = {"digest": file_digest(self.run.merged / "model.ckpt")}
        self.run.report_file.write_text(json.dumps({**report, "merged": merged}))

    def newest_set(self) -> int:
        """The step of the newest shard set, 0 where there is none; every one that has a manifest is whole."""
        steps = ShardSet.steps(self.run.checkpoints) if self.run.checkpoints.exists() else []
        for step in steps:
            whole_set(self.run, step)
        return steps[-1] if steps else 0

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
        assert (self.run.merged / "model.ckpt").read_bytes() == expected, "merged to other bytes"
        there = sorted(path.name for path in self.run.merged.iterdir())
        assert there == ["model.ckpt", "model.ckpt.merge.json"], there
        store = ModelStore(Home(self.home), MODEL)
        assert [version.version for version in store.versions()] == [1]
        version = store.current()
        assert version is not None
        version.verify()
        assert version.model_file.read_bytes() == expected
        assert not leftovers(self.home)


def tried(kind: str, trial: Callable[[], None], seed: object = None) -> None:
    """Try `kind`, and record how it ended; of what failed, without where this checkout lies."""
    try:
        trial()
    except BaseException as error:
        if not isinstance(error, pytest.skip.Exception):
            said = f"{type(error).__name__}: {error!s}".replace(f"{PROJECT}/", "")
            record("faults", kind, tries=1, failed=[said[:500]], seed=seed)
        raise
    record("faults", kind, tries=1, failed=[], seed=seed)


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


PAGE = 4096


def pages(place: Path) -> int:
    """How much room is left there."""
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize // PAGE


@contextmanager
def small_file_system(place: Path) -> Iterator[Path]:
    """256 MiB in memory, mounted at `place`."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
