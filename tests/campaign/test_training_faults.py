"""Trainings that lose a process, or of which a rank meets a fault: done again they end as if nothing had been.

The set that was whole before is the newest then, and the next try resumes from it. That saves after other steps: what
the first one left is not hidden by being written over.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch.records import rank_folder
from tests.campaign.kinds import Fault, Loss, LossWhileSaving
from tests.campaign.training_faults import (
    BEHIND,
    BEHIND_TRAINING,
    FROM_OUTSIDE,
    IN_A_RANK,
    SAVING,
    SAVING_CALLS,
    WHILE_SAVING,
)
from tests.campaign.trial import HANG_TIMEOUT_S, TRAINING, Trial, check_ended, small_file_system, tried
from tests.patience import PATIENCE_S
from tests.shardline.training import runs

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * PATIENCE_S)]
LAST = 7
"""The step that ends the training."""
NEXT_TRY = {"save_checkpoint_steps": 3, "hang_timeout": None}
RANKS = range(int(str(TRAINING["world_size"])))
UNDER_WAY = 4
"""The set that is being saved when a process is lost."""


@pytest.fixture(scope="module")
def of_safetensors(trained: tuple[Path, bytes], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an undisturbed training is merged into that saves .safetensors: these have the tensors in another order."""
    trial = begin(trained, tmp_path_factory.mktemp("safetensors"), {"checkpoint_format": "safetensors"})
    for task in ("train", "merge", "promote"):
        trial.succeed(task)
    return (trial.run.merged / "model.ckpt").read_bytes()


@pytest.mark.parametrize("fault", [*IN_A_RANK, *BEHIND_TRAINING], ids=lambda fault: fault.kind)
def test_a_training_with_a_fault_in_a_rank(
    trained: tuple[Path, bytes], tmp_path: Path, fault: Fault, request: pytest.FixtureRequest
) -> None:
    is_other = fault.parameters.get("checkpoint_format") == "safetensors"
    expected: bytes = request.getfixturevalue("of_safetensors") if is_other else trained[1]

    def run() -> None:
        with place_for(fault, tmp_path) as place:
            trial = begin(trained, place, fault.parameters)
            if fault.act == "stop":
                trial.change({"hang_timeout": HANG_TIMEOUT_S})
            filler = place / "filler"
            check_ended(trial.task("train", fault, filler=str(filler)), fault)
            filler.unlink(missing_ok=True)
            if fault.act in ("cut", "limit"):
                check_hit_inside_a_slice(trial, fault)
            check_is_newest(trial, fault.newest)
            finish(trial, expected, fault.newest)

    tried(fault.kind, run, fault.seed)


@pytest.mark.parametrize("loss", FROM_OUTSIDE, ids=lambda loss: loss.kind)
def test_a_training_that_loses_a_process(trained: tuple[Path, bytes], tmp_path: Path, loss: Loss) -> None:
    def run() -> None:
        trial = begin(trained, tmp_path, {})
        process = runs.start_and_wait_for_a_shard_set(trial.run, trial.home)
        lose(trial, process, loss.victim, 1, loss.message)
        trial.check_no_orphan()
        finish(trial, trained[1], where_they_stood(trial))

    tried(loss.kind, run)


LOSSES = [(loss, seed) for loss in WHILE_SAVING for seed in range(loss.times)]


@pytest.mark.parametrize(("loss", "seed"), LOSSES, ids=lambda value: getattr(value, "kind", str(value)))
def test_a_training_that_loses_a_process_while_it_saves_behind(
    trained: tuple[Path, bytes], tmp_path: Path, loss: LossWhileSaving, seed: int
) -> None:
    def run() -> None:
        chance = random.Random(f"{loss.kind} {seed}")
        held, lost = chance.choice(RANKS), chance.choice(RANKS)
        on, path = chance.choice(SAVING_CALLS if held == 0 else SAVING_CALLS[:-1])
        print(f"{loss.kind}: seed {seed}: rank {held} held at {on} of {path}, rank {lost} lost")
        trial, mark = begin(trained, tmp_path, BEHIND), tmp_path / "held"
        fault = Fault("", "train", "hold", on, path.replace("RANK", str(held)), rank=held, thread=SAVING)
        process = trial.start("train", fault, held=str(mark))
        wait_until(mark.exists, process)
        wait_until(lambda: all(has_saved(trial, rank) for rank in RANKS if rank != held), process)
        wait_until(lambda: runs.losses(trial.run)[-1][0] > UNDER_WAY, process)  # training goes on
        assert ShardSet.steps(trial.run.checkpoints) == [2]
        lose(trial, process, loss.victim, lost, loss.message)
        check_is_newest(trial, 2)
        finish(trial, trained[1], 2)

    tried(loss.kind, run, seed)


def begin(trained: tuple[Path, bytes], place: Path, parameters: Any) -> Trial:
    trial = Trial(place / "home")
    shutil.copytree(trained[0], trial.home)
    trial.change(parameters)
    return trial


def place_for(fault: Fault, folder: Path) -> AbstractContextManager[Path]:
    """Where its home lies: on a file system of its own where that is to be filled."""
    return small_file_system(folder / "small") if fault.act == "fill" else nullcontext(folder)


def check_hit_inside_a_slice(trial: Trial, fault: Fault) -> None:
    """So much of the slice was written, no more and no less; of safetensors nothing, since what writes it asks for all
    the room that the file is to take before its first byte."""
    (before,) = trial.run.checkpoints.glob(f"rank_{fault.rank}/checkpoint-1_2.*")
    folder = trial.run.checkpoints / f"rank_{fault.rank}"
    (begun,) = (*folder.glob(f"checkpoint-1_{UNDER_WAY}.*"), *folder.glob(".tmp*"))
    share = 0.0 if before.suffix == ".safetensors" else fault.share
    assert begun.stat().st_size == int(share * before.stat().st_size)


def has_saved(trial: Trial, rank: int) -> bool:
    """Whether the rank has said that its slices of the set under way are on disk."""
    return (trial.run.checkpoints / ".receipts" / str(UNDER_WAY) / f"rank_{rank}.json").exists()


def wait_until(condition: Callable[[], bool], training: subprocess.Popen[str]) -> None:
    """Return when `condition` holds, of a training that goes on until then."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def lose(trial: Trial, training: subprocess.Popen[str], victim: str, rank: int, message: str) -> None:
    """Kill `victim`, a process of `rank` or of all, and see the training end as `message` says, RANK being `rank`."""
    for process in victims(victim, trial, training, rank):
        process.kill()
    end(training, message.replace("RANK", str(rank)))


def end(training: subprocess.Popen[str], message: str) -> None:
    """See the training fail, as `message` says."""
    printed, errors = training.communicate(timeout=PATIENCE_S)
    assert training.returncode != 0
    assert re.search(message, errors, re.DOTALL), printed + errors


def victims(victim: str, trial: Trial, training: subprocess.Popen[str], number: int) -> list[psutil.Process]:
    started = rank_folder(trial.run.logs, number).read_started()
    assert started is not None
    rank = psutil.Process(started.pid)
    witness = rank.parent()
    assert witness is not None
    named = {"rank": rank, "witness": witness, "mpirun": witness.parent(), "supervisor": psutil.Process(training.pid)}
    return trial.processes() if victim == "all" else [named[victim]]


def where_they_stood(trial: Trial) -> int:
    """The newest set of a training that paused: ranks that were still told to stop may have saved at the next step."""
    step = trial.newest_set()
    assert step in (UNDER_WAY, UNDER_WAY + 1)
    return step


def check_is_newest(trial: Trial, step: int) -> None:
    trial.check_no_orphan()
    assert trial.newest_set() == step


def finish(trial: Trial, expected: bytes, resumed_from: int) -> None:
    """After a training that was disturbed: all again, to the same bytes."""
    trial.change(NEXT_TRY)
    for task in ("train", "merge", "promote"):
        trial.succeed(task)
    assert json.loads(trial.run.train_file.read_text())["resumed_from"] == resumed_from
    assert trial.newest_set() == LAST
    sets = [ShardSet.read(ShardSet.path(trial.run.checkpoints, step)) for step in ShardSet.steps(trial.run.checkpoints)]
    named = {trial.run.checkpoints / item.path for each in sets for item in each.slices}
    assert set(trial.run.checkpoints.glob("rank_*/*")) == named
    trial.check_no_orphan()
    trial.check_ends_undisturbed(expected)
