"""What the ranks of a launch do: here, a module of Shardline's own. `program_work` has the user's programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.base.errors import LaunchError, Stopped
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch import diagnosis, preflight
from shardline.launch.interruption import Interruption
from shardline.launch.job import Outcome, Shown
from shardline.launch.patience import Patience
from shardline.launch.sites import ThisHost, say, site_of
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import TrainingConfig

# Tasks of one process on one device, by their log folder. The others run on `world_size` ranks and log under
# 1, as Open MPI 4's `mpirun --output-filename log_output` has it.
_SINGLE_DEVICE = {"tasks.validate": "validate"}


@dataclass(frozen=True)
class ModuleWork:
    """A module that every rank runs, as `python -m MODULE` would."""

    module: str
    config: RunConfig | TrainingConfig
    directory: RunDirectory

    @property
    def cards(self) -> int:
        """How many cards are held."""
        return 1 if self.module in _SINGLE_DEVICE else self.config.world_size

    @property
    def processes(self) -> int:
        """How many ranks are started and watched."""
        return self.cards

    @property
    def logs(self) -> Path:
        """The folder of the ranks' folders."""
        return self.directory.logs.with_name(_SINGLE_DEVICE.get(self.module, self.directory.logs.name))

    @property
    def begins(self) -> tuple[Path, ...]:
        """Files of which one appears when the ranks have started up."""
        if self.module != preflight.TRAINING:
            return ()
        return tuple(map(self.directory.rank_status, range(self.processes)))

    @property
    def shown(self) -> Shown:
        """Whose log is shown in the task's, and how much of it."""
        return Shown()

    @property
    def memory_a_rank(self) -> int:
        """The bytes of memory that each rank needs at least."""
        return preflight.memory_a_rank(self.module, self.config, self.directory)

    def check(self) -> None:
        """Refuse what would certainly fail later."""
        preflight.check(self.module, self.config, self.directory)

    def site(self, environment: Mapping[str, str], patience: Patience) -> ThisHost:
        """Where the ranks run."""
        return site_of(self.config, self.cards, self.directory, environment, patience)

    def prepare(self) -> None:
        """Leave in `logs`, which is there and empty, what the ranks need."""

    def rank_command(self) -> list[str]:
        """What each rank runs."""
        arguments = ["--logs", str(self.logs), self.module, "--run-directory", str(self.directory.path)]
        return [sys.executable, "-m", "shardline.launch.rank", *arguments]

    def meanwhile(self) -> AbstractContextManager[None]:
        """What this process does besides, while the ranks run."""
        return nullcontext()

    def result(self, outcome: Outcome, interruption: Interruption) -> dict[str, Any]:
        """The task's result; raises where the ranks have not done what they were to do."""
        launch = outcome.launch
        if interruption.reason or launch.has_stopped():
            reason = interruption.reason or "the ranks were told to stop"
            kind = Stopped if launch.has_stopped() else LaunchError
            raise kind(f"{reason}: {self._how_they_stopped(launch)}; their logs are in {launch.folder}")
        if outcome.hang:
            raise LaunchError(
                "no rank has taken a step or logged a line for longer than hang_timeout: the ranks were stopped. "
                f"Where they stood:\n{outcome.hang}\nAll threads of rank N: {launch.folder}/rank.N/stacks"
            )
        if launch.unfinished():
            raise diagnosis.error(launch)
        if launch.mpirun_exit != 0:
            say(f"all ranks finished, although mpirun ended with exit code {launch.mpirun_exit}")
        if outcome.result is None:
            raise LaunchError(
                f"rank 0 finished without a result: no JSON object among the lines of {launch.rank(0).log}"
            )
        return outcome.result

    def _how_they_stopped(self, launch: diagnosis.Launch) -> str:
        """Whether the ranks saved before they left, and from where the next try goes on."""
        steps = ShardSet.steps(self.directory.checkpoints)
        if launch.has_stopped():
            return f"the ranks saved shard set {steps[-1]} and left; the next try goes on from it"
        if not launch.unfinished():
            return "the ranks had finished"
        start = f"from shard set {steps[-1]}" if steps else "anew"
        return f"the ranks were stopped and have not saved; the next try starts {start}"
