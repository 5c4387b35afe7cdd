"""A program of the user's own, as a description file names it, run on ranks."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.errors import CheckpointError, ConfigError, LaunchError, Stopped
from shardline.base.workers import meanwhile
from shardline.checkpoint.shards.adopter import Adopter
from shardline.checkpoint.shards.adoption import steps_since
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch import diagnosis
from shardline.launch.interruption import Interruption
from shardline.launch.job import Outcome, Shown
from shardline.launch.patience import Patience
from shardline.launch.program import Program, Steps
from shardline.launch.rank_number import SCHEDULER
from shardline.launch.sites import ThisHost, WithoutMpirun, say, site_of
from shardline.launch.work import ModuleWork
from shardline.run.adopting import adopter_of, not_adopted
from shardline.run.described_run import slice_files, strategies_of
from shardline.settings.placeholders import filled
from shardline.settings.training import OF_RESUMING, Training
from shardline.settings.training_config import TrainingConfig
from shardline.training.metrics_file import keep_until

_MOST_SHOWN = 16 * 2**20
_LOOK_S = 1.0
_MOST_LISTED = 4


class ProgramWork(ModuleWork):
    """The command of a description, once on each rank, or once alone where it has no launcher."""

    config: TrainingConfig

    @property
    def training(self) -> Training:
        """The description as it was when the run was prepared."""
        return self.config.training

    @property
    def processes(self) -> int:
        """How many ranks are started: one where the program starts its own."""
        return 1 if self.training.launcher == "none" else self.config.world_size

    @property
    def begins(self) -> tuple[Path, ...]:
        """The file that appears with the first step, where steps are known."""
        return (self.directory.rank_status(self.shown.rank),) if self._knows_steps else ()

    @property
    def shown(self) -> Shown:
        """The log that tells steps. A program may print for ever, and a question by signal may be its end."""
        rank = self.training.log.rank
        return Shown(
            rank if 0 <= rank < self.processes else self.processes - 1,
            most=min(_MOST_SHOWN, self.training.log.largest_mib * 2**20 // 2),
            stacks=False,
        )

    def site(self, environment: Mapping[str, str], patience: Patience) -> ThisHost:
        """With mpirun as our own trainings; otherwise on this host alone."""
        if self.training.launcher == "mpirun":
            return site_of(self.config, self.cards, self.directory, environment, patience)
        return WithoutMpirun(
            self.config, self.cards, environment, patience, self.processes, self.training.launcher == "msrun"
        )

    @cached_property
    def adopter(self) -> Adopter:
        """What makes complete shard sets of the program's slices."""
        return adopter_of(self.directory, self.config, say)

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Adopt what the program saves: what has settled while it runs, and all that is complete when it has ended."""
        has_ended = threading.Event()

        def adopt_what_settles() -> None:
            while not has_ended.wait(_LOOK_S):
                self.adopter.look(time.monotonic())

        with meanwhile(adopt_what_settles):
            try:
                yield
            finally:
                has_ended.set()
        self.adopter.look(time.monotonic(), has_ended=True)

    def prepare(self) -> None:
        """Leave in each rank's folder what it is to run; the steps that an earlier try told too early go.

        Where this one goes on, what an earlier try saved is adopted first, if it was killed before it did so itself.
        """
        resumed = None
        if self.training.goes_on:
            self.adopter.look(time.monotonic(), has_ended=True)
            resumed = newest_to_resume(self.directory.checkpoints)
        keep_until(self.directory.metrics_file, self.directory.metrics_file, resumed.step if resumed else 0)
        if resumed:
            say(f"goes on from shard set {resumed.step}")
        elif steps := ShardSet.steps(self.directory.checkpoints):
            say(f"starts anew, though there is shard set {steps[-1]}: the description has no resume.arguments")
        files = [self._program(rank, resumed).write(self.logs / f"rank.{rank}") for rank in range(self.processes)]
        if self.training.launcher == "msrun":
            replace(self._program(0, resumed), steps=None).write(self.logs / SCHEDULER)
        self.adopter.since = files[0].stat().st_mtime_ns  # by the clock that times the slices
        self.adopter.only_since = not self.training.goes_on

    def rank_command(self) -> list[str]:
        """The witness of each rank: what a user has chosen is no part of this."""
        return [sys.executable, "-m", "shardline.launch.rank", "--logs", str(self.logs), "--program"]

    @property
    def _knows_steps(self) -> bool:
        return bool(self.training.log.patterns) or self.training.log.format == "json"

    def _program(self, rank: int, resumed: ShardSet | None) -> Program:
        training, texts = self.training, self._texts(rank, resumed)
        words = [*training.command, *(training.resume.arguments if resumed else ())]
        working_directory = Path(filled(training.working_directory, texts))
        steps = None
        if self._knows_steps and rank == self.shown.rank:
            log = training.log
            steps = Steps(str(self.directory.metrics_file), log.patterns, log.keys, resumed.step if resumed else 0)
        return Program(
            [filled(word, texts) for word in words],
            {name: filled(text, texts) for name, text in training.environment.items()},
            str(working_directory),
            int(signal.Signals[training.stop.signal]),
            training.log.largest_mib * 2**20,
            steps,
        )

    def _texts(self, rank: int, resumed: ShardSet | None) -> dict[str, str]:
        texts = self.config.texts(self.directory.path) | {"rank": str(rank)} | dict.fromkeys(OF_RESUMING, "")
        if resumed is None:
            return texts
        folder = self.directory.checkpoints.resolve()
        own = resumed.own_file(rank)
        return texts | {
            "resume_from": str(folder),
            "resume_step": str(resumed.step),
            "resume_epoch": str(resumed.epoch),
            "resume_slice": str(folder / own.path) if own else "",
            "resume_manifest": str(ShardSet.path(folder, resumed.step)),
        }

    def _newest_of_this_try(self) -> ShardSet | None:
        """The newest set that was saved since the program started anew. The others' manifests go; slices stay."""
        folder = self.directory.checkpoints
        own, steps = steps_since(folder, self.adopter.since), ShardSet.steps(folder)
        for step in set(steps).difference(own) if own else ():
            ShardSet.path(folder, step).unlink()
            say(f"{ShardSet.path(folder, step).name} is withdrawn: an earlier try saved it")
        return ShardSet.read(ShardSet.path(folder, own[-1])) if own else None

    def _nothing_saved(self) -> str:
        """What to say where there is no shard set, though the program has ended well."""
        said = f"the program ended well, but left no complete shard set of {counted(self.config.world_size, 'rank')}"
        slices, run = self.training.slices, self.directory
        missing = [] if slice_files(run, self.config) else [*slices.files]
        missing += [] if strategies_of(run, self.config) else [*slices.strategies]
        if not missing and not self.adopter.refused and (steps := ShardSet.steps(run.checkpoints)):
            return (
                f"{said}: shard set {steps[-1]} was saved by an earlier try. If the program finds its newest save by "
                "itself, say so: resume.by_itself = true"
            )
        if not missing:
            return f"{said}: {self.adopter.nothing_adopted()}"
        return (
            f"{said}: expected files like {', '.join(missing)} below {run.path}, found none. See whether the command "
            "saves there ({run_directory}), and whether slices of the description says where"
        )

    def _saved_later(self, newest: ShardSet) -> str:
        """What to say where the newest files are no shard set, though the program has ended well; else nothing."""
        later = not_adopted(self.directory, self.config, newest)
        if not later:
            return ""
        names = ", ".join(str(path.relative_to(self.directory.path.resolve())) for path in later[:_MOST_LISTED])
        more = f" and {len(later) - _MOST_LISTED} more" if len(later) > _MOST_LISTED else ""
        reasons = [f" ({error})" for error in self.adopter.refused.values()]
        return (
            f"the program ended well, but what it saved last is newer than shard set {newest.step} and no complete set "
            f"itself: {names}{more}{reasons[-1] if reasons else ''}. Let every rank save, or narrow slices.files down "
            "to what is a slice"
        )

    def result(self, outcome: Outcome, interruption: Interruption) -> dict[str, Any]:
        """The newest complete shard set; raises where the program failed, was stopped, or left none."""
        launch = outcome.launch
        newest = ShardSet.newest(self.directory.checkpoints) if self.training.goes_on else None
        goes_on = f"the next try goes on from shard set {newest.step}" if newest else "the next try starts anew"
        if interruption.reason:
            kind = Stopped if newest and not _were_killed(launch) else LaunchError
            raise kind(f"{interruption.reason}: the program was told to stop; {goes_on}. Its logs: {launch.folder}")
        if outcome.hang:
            raise LaunchError(
                "the program has taken no step and printed nothing for longer than hang_timeout: it was stopped; "
                f"{goes_on}. What was printed last:\n{outcome.hang}\nThe logs: {launch.folder}/rank.N/stdout"
            )
        if launch.unfinished():
            raise diagnosis.error(launch)
        newest = newest or self._newest_of_this_try()
        if newest is None:
            raise ConfigError(self._nothing_saved())  # trying again would end likewise
        if problem := self._saved_later(newest):
            raise ConfigError(problem)
        return {
            "run_directory": str(self.directory.path),
            "step": newest.step,
            "epoch": newest.epoch,
            "world_size": newest.world_size,
        }


def newest_to_resume(checkpoints: Path) -> ShardSet | None:
    """The newest shard set whose files are as large as its manifest says; what is newer, and is not, is said."""
    for step in reversed(ShardSet.steps(checkpoints)):
        found = _of_its_size(checkpoints, step)
        if isinstance(found, ShardSet):
            return found
        say(f"shard set {step} is passed over: {found}")
    return None


def _of_its_size(checkpoints: Path, step: int) -> ShardSet | CheckpointError:
    try:
        shard_set = ShardSet.read(ShardSet.path(checkpoints, step))
        for item in shard_set.slices:
            shard_set.file_of_its_size(checkpoints, item)
    except CheckpointError as error:
        return error
    return shard_set


def _were_killed(launch: diagnosis.Launch) -> bool:
    """Whether a rank did not leave by itself."""
    failures = (launch.rank(rank).read_failure() for rank in range(launch.world_size))
    return any(failure is not None and failure.signal_number == signal.SIGKILL for failure in failures)
