"""Every kind of failure, run to its end: what failed says so, and done again it ends like a run that nothing disturbed.

Compared are the merged bytes and the versions of the store; there is no process left, and nothing of a task at work.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tests.campaign.faults import (
    AT_ANY_MOMENT,
    FAILS,
    FROM_OUTSIDE,
    FULL_DISKS,
    IN_A_RANK,
    IN_PROCESS,
    KILLED,
    Fault,
    FullDisk,
    Loss,
    Moment,
)
from tests.campaign_record import record
from tests.patience import PATIENCE_S
from tests.processes import environment_of
from tests.protocol.invariants import leftovers
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors
from tests.shardline.training import runs

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * PATIENCE_S)]
MODEL = "mnist-mlp"
TRAINING = {"world_size": 4, "batch_size": 640, "epochs": 1, "save_checkpoint_steps": 4, "min_accuracy": 0.5}
HANG_TIMEOUT_S = 120
"""For the rank that is stopped alone: of a module that is none of the pipeline's, the start counts, too."""


class Trial:
    """A run in a home of its own, whose tasks are started as the DAG starts them."""

    def __init__(self, home: Path) -> None:
        self.home, self.run = home, RunDirectory(home / "runs" / "training" / "run")

    def task(
        self, name: str, fault: Fault | None = None, in_a_rank: bool = True, **others: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a task to its end, with `fault`, and what is said of it beside, in its process, or that of a rank."""
        command = self._command(name)
        environment = os.environ | {"SHARDLINE_HOME": str(self.home)}
        if fault is not None:
            place = 1 if command[0] == "tasks.launch" and in_a_rank else 0
            said = {**asdict(fault), "run": str(self.run.path), "module": command[place], **others}
            environment["FAULT"] = json.dumps(said)
            command[place] = "tests.campaign.faulty"
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def _command(self, name: str) -> list[str]:
        directory = ["--run-directory", str(self.run.path)]
        commands = {
            "prepare_dataset": ["tasks.prepare_dataset", "--parameters", json.dumps(TRAINING), *directory],
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
        launched = ["tasks.launch"] if name in ("train", "validate") else []
        return commands.get(name, [*launched, f"tasks.{name}", *directory])

    @property
    def on_request(self) -> RunDirectory:
        """Where merge_checkpoint merges the run again."""
        return RunDirectory(self.home / "runs" / "merging" / "run")

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


def tried(kind: str, trial: Callable[[], None], seed: object = None) -> None:
    """Try `kind`, and record how it ended."""
    try:
        trial()
    except BaseException as error:
        if not isinstance(error, pytest.skip.Exception):
            record("faults", kind, tries=1, failed=[f"{type(error).__name__}: {error!s:.500}"], seed=seed)
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


class Begins:
    """By task: a home that it begins with, and the bytes of the model that the run is merged into in the end."""

    def __init__(self, folder: Path, saved: tuple[Path, bytes], trained: tuple[Path, bytes]) -> None:
        self.folder = folder
        validated = trained[0].with_name("undisturbed"), trained[1]
        merged, promoted = (folder / "merged", saved[1]), (folder / "promoted", saved[1])
        self.homes = {
            "prepare_dataset": (folder / "nothing", trained[1]),
            "train": trained,
            "merge": saved,
            "validate": validated,
            "promote": merged,
            "merge_checkpoint": promoted,
            "housekeeping": merged,
        }
        self._calls: dict[str, list[int]] = {}

    def trial(self, task: str, home: Path) -> Trial:
        shutil.copytree(self.homes[task][0], home, symlinks=True)
        return Trial(home)

    def calls(self, moment: Moment, home: Path) -> list[int]:
        """How many calls a try makes that nothing disturbs, of each rank."""
        if moment.kind not in self._calls:
            (counted := home.with_name(f"counted {home.name}")).mkdir()
            trial = self.trial(moment.task, home.with_name("undisturbed"))
            done = trial.task(moment.task, fault_of("count", 0, 0, trial), moment.in_a_rank, counted=str(counted))
            assert done.returncode == 0, done.stdout + done.stderr
            found = {int(file.name): int(file.read_text()) for file in counted.iterdir()}
            self._calls[moment.kind] = [found[rank] for rank in sorted(found)]
        return self._calls[moment.kind]


@pytest.fixture(scope="module")
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


def fault_of(act: str, count: int, rank: int, trial: Trial) -> Fault:
    return Fault("", "", act, "any", re.escape(str(trial.home)), count, rank)


MOMENTS = [(moment, seed) for moment in AT_ANY_MOMENT for seed in range(moment.times)]


@pytest.mark.parametrize(("moment", "seed"), MOMENTS, ids=lambda value: getattr(value, "kind", str(value)))
def test_a_task_killed_at_any_moment(begins: Begins, tmp_path: Path, moment: Moment, seed: int) -> None:
    def run() -> None:
        chance, calls = random.Random(f"{moment.kind} {seed}"), begins.calls(moment, tmp_path / "home")
        rank = chance.randrange(len(calls))
        # A launch looks again and again while its ranks work: how often, the machine decides.
        count = chance.randint(1, calls[rank] // 2 if moment.task in ("train", "validate") else calls[rank])
        print(f"{moment.kind}: seed {seed}: before call {count} of {calls[rank]} of rank {rank}")
        trial = begins.trial(moment.task, tmp_path / "home")
        done = trial.task(moment.task, fault_of("kill", count, rank, trial), moment.in_a_rank)
        printed = done.stdout + done.stderr
        if moment.in_a_rank:
            assert done.returncode not in (0, -signal.SIGKILL), printed
            assert re.search(f"rank {rank} .*SIGKILL", done.stderr), printed
        else:
            assert done.returncode == -signal.SIGKILL, printed
        trial.check_no_orphan()
        check_done_again(trial, moment.task, begins.homes[moment.task][1])

    tried(moment.kind, run, seed)


def check_done_again(trial: Trial, task: str, expected: bytes) -> None:
    """The task, and those that follow, end as they do where nothing was disturbed."""
    following = {
        "prepare_dataset": ("train", "merge", "promote"),
        "train": ("merge", "promote"),
        "merge": ("promote",),
    }
    for each in (task, *following.get(task, ())):
        trial.succeed(each)
    trial.check_no_orphan()
    if task == "housekeeping":  # all of the run that takes space is gone, and nothing else is
        left = [path for path in trial.run.path.rglob("*") if path.is_file()]
        assert not [path for path in left if path.match("rank_*/*.ckpt") or path.match("merged/*.ckpt")]
        assert not [*trial.run.path.rglob(".freed.*")]
        assert {trial.run.report_file, trial.run.config_file, trial.run.merge_file} <= {*left}
        return
    if task == "merge_checkpoint":
        merged = trial.on_request.merged / "model.ckpt"
        assert merged.read_bytes() == expected
        verify(merged, workers=1)
    if task == "validate":
        assert json.loads(trial.run.report_file.read_bytes())["passed"]
    trial.check_ends_undisturbed(expected)


DISKS = [(disk, share) for disk in FULL_DISKS for share in disk.shares]


@pytest.mark.parametrize(("disk", "share"), DISKS, ids=lambda value: getattr(value, "kind", str(value)))
def test_a_disk_that_is_full(begins: Begins, tmp_path: Path, disk: FullDisk, share: float) -> None:
    """A file system of its own, filled up to a share of what the task takes; then room is made, as the message says."""

    def run() -> None:
        with small_file_system(tmp_path / "small") as place:
            free = pages(place)
            undisturbed = begins.trial(disk.task, place / "undisturbed")
            begun = pages(place)
            undisturbed.succeed(disk.task)
            needed = begun - pages(place)
            shutil.rmtree(undisturbed.home)
            assert pages(place) == free
            trial = begins.trial(disk.task, place / "home")
            filler = place / "filler"
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, (pages(place) - int(share * needed)) * PAGE)
            assert pages(place) == int(share * needed) < needed
            done = trial.task(disk.task)
            assert done.returncode not in (0, -signal.SIGKILL), done.stdout + done.stderr
            assert re.search("No space left|make room|free some", done.stderr), done.stderr
            assert "Traceback" not in done.stderr, done.stderr
            trial.check_no_orphan()
            filler.unlink()
            check_done_again(trial, disk.task, begins.homes[disk.task][1])

    tried(disk.kind, run, f"room for {share:.0%}")


PAGE = 4096


def pages(place: Path) -> int:
    """How much room is left there."""
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize // PAGE


@contextmanager
def small_file_system(place: Path) -> Iterator[Path]:
    """64 MiB in memory, mounted at `place`."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


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
