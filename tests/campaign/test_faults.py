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
from pathlib import Path

import pytest

from shardline.checkpoint.merging.verify import verify
from shardline.run.directory import Home
from shardline.store.model_store import ModelStore
from shardline.store.signature import check_signature
from tests.campaign.begins import Begins, fault_of
from tests.campaign.commands import COMMANDS
from tests.campaign.faults import AT_ANY_MOMENT, FULL_DISKS, IN_PARTS, IN_PROCESS, OF_COMMANDS, SIGNING, STOPPED
from tests.campaign.kinds import Fault, FullDisk, Moment
from tests.campaign.trial import HANG_TIMEOUT_S, MODEL, PAGE, PARTS, Trial, check_ended, pages, small_file_system, tried
from tests.patience import PATIENCE_S
from tests.protocol.invariants import leftovers
from tests.shardline.store.keys import pair

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * PATIENCE_S)]


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


@pytest.mark.parametrize("fault", IN_PARTS, ids=lambda fault: fault.kind)
def test_a_merge_in_parts_that_is_disturbed(begins: Begins, tmp_path: Path, fault: Fault) -> None:
    def run() -> None:
        trial = begins.trial(fault.task, tmp_path / "home")
        slices = {file: file.read_bytes() for file in trial.run.checkpoints.rglob("*.ckpt")}
        check_ended(trial.task(fault.task, fault), fault)
        trial.check_no_orphan()
        for file, content in slices.items() if fault.target else ():  # restored, as the message says
            file.write_bytes(content)
        check_done_again(begins, trial, "merge.plan" if fault.target else fault.task)

    tried(fault.kind, run)


@pytest.mark.parametrize("fault", SIGNING, ids=lambda fault: fault.kind)
def test_a_promotion_that_signs_is_disturbed(saved: tuple[Path, bytes], tmp_path: Path, fault: Fault) -> None:
    """No version is there without its signature; the key brought back, it is made, and anybody can check it."""

    def run() -> None:
        trial, (private, public) = Trial(tmp_path / "home"), pair(tmp_path / "keys")
        shutil.copytree(saved[0], trial.home)
        trial.succeed("merge")
        trial.variables |= {"SHARDLINE_SIGNING_KEY": str(private), "SHARDLINE_ALLOWED_ROOTS": ""}
        check_ended(trial.task("promote", fault), fault)
        trial.check_no_orphan()
        assert not ModelStore(Home(trial.home), MODEL).versions()
        pair(tmp_path / "keys")
        trial.succeed("promote")
        trial.check_ends_undisturbed(saved[1])
        (version,) = ModelStore(Home(trial.home), MODEL).versions()
        assert check_signature(version.path, public) == f"{MODEL}/1"

    tried(fault.kind, run)


@pytest.mark.parametrize("fault", OF_COMMANDS, ids=lambda fault: fault.kind)
def test_a_command_that_is_disturbed(begins: Begins, tmp_path: Path, fault: Fault) -> None:
    def run() -> None:
        trial = begins.trial(fault.task, tmp_path / "home")
        before = {file: file.read_bytes() for file in trial.home.rglob("*") if file.is_file()}
        check_ended(trial.task(fault.task, fault), fault)
        for file, content in before.items() if fault.target else ():  # restored, as the message says
            file.write_bytes(content)
        check_command_done_again(begins, trial, fault.task)

    tried(fault.kind, run)


@pytest.mark.parametrize("fault", STOPPED, ids=lambda fault: fault.kind)
def test_a_task_of_which_a_rank_is_stopped(begins: Begins, tmp_path: Path, fault: Fault) -> None:
    def run() -> None:
        trial = begins.trial(fault.task, tmp_path / "home")
        trial.change({"hang_timeout": HANG_TIMEOUT_S})
        check_ended(trial.task(fault.task, fault), fault)
        trial.check_no_orphan()
        trial.change({"hang_timeout": None})
        check_done_again(begins, trial, fault.task)

    tried(fault.kind, run)


MOMENTS = [(moment, seed) for moment in AT_ANY_MOMENT for seed in range(moment.times)]


@pytest.mark.parametrize(("moment", "seed"), MOMENTS, ids=lambda value: getattr(value, "kind", str(value)))
def test_a_task_killed_at_any_moment(begins: Begins, tmp_path: Path, moment: Moment, seed: int) -> None:
    def run() -> None:
        chance, calls = random.Random(f"{moment.kind} {seed}"), begins.calls(moment, tmp_path / "home")
        rank = chance.randrange(len(calls))
        # A launch looks again and again while its ranks work: how often, the machine decides.
        polls = moment.task in ("train", "validate") and not moment.thread
        count = chance.randint(1, calls[rank] // 2 if polls else calls[rank])
        print(f"{moment.kind}: seed {seed}: before call {count} of {calls[rank]} of rank {rank}")
        trial = begins.trial(moment.task, tmp_path / "home")
        trial.change(moment.parameters)
        done = trial.task(moment.task, fault_of("kill", count, rank, trial, moment.thread), moment.in_a_rank)
        printed = done.stdout + done.stderr
        if moment.in_a_rank:
            assert done.returncode not in (0, -signal.SIGKILL), printed
            assert re.search(f"rank {rank} .*SIGKILL", done.stderr), printed
        else:
            assert done.returncode == -signal.SIGKILL, printed
        trial.check_no_orphan()
        newest = trial.newest_set() if moment.task == "train" else 0
        check_done_again(begins, trial, moment.task)
        if moment.task == "train":
            assert json.loads(trial.run.train_file.read_text())["resumed_from"] == newest

    tried(moment.kind, run, seed)


def check_done_again(begins: Begins, trial: Trial, task: str) -> None:
    """The task, and those that follow, end as they do where nothing was disturbed."""
    if task in COMMANDS:
        check_command_done_again(begins, trial, task)
        return
    expected = begins.homes[task][1]
    in_parts = tuple(PARTS)
    following = {
        "prepare_dataset": ("train", "merge", "promote"),
        "train": ("merge", "promote"),
        "merge": ("promote",),
        **{each: (*in_parts[number:], "promote") for number, each in enumerate(in_parts, 1)},
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


def check_command_done_again(begins: Begins, trial: Trial, name: str) -> None:
    """What there is of its output counts only where all of it is there, and done again, all of it is."""
    command, expected = COMMANDS[name], begins.output(name)
    is_there = command.is_there(trial.home)
    assert not is_there or command.content(trial.home) == expected
    done = trial.task(name)
    refused = is_there and re.search(command.refuses, done.stderr) if command.refuses else None
    assert refused or done.returncode == 0, done.stdout + done.stderr
    assert command.content(trial.home) == expected
    trial.check_no_orphan()
    assert not leftovers(trial.home.parent)


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
            for left in place.iterdir():  # of an upload, what it went to as well
                shutil.rmtree(left)
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
            check_done_again(begins, trial, disk.task)

    tried(disk.kind, run, f"room for {share:.0%}")
