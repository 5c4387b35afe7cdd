"""Where each task of the campaign begins, made by the tasks before it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.campaign.commands import COMMANDS
from tests.campaign.kinds import Fault, Moment
from tests.campaign.trial import PARTS, Trial


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
            **dict.fromkeys(PARTS, saved),
            "validate": validated,
            "promote": merged,
            "merge_checkpoint": promoted,
            "housekeeping": merged,
        }
        self._calls: dict[str, list[int]] = {}
        self._outputs: dict[str, dict[str, bytes]] = {}

    def trial(self, task: str, home: Path) -> Trial:
        if task in COMMANDS:
            COMMANDS[task].make(home)
        else:
            shutil.copytree(self.homes[task][0], home, symlinks=True)
        trial, in_order = Trial(home), tuple(PARTS)
        for before in in_order[: in_order.index(task)] if task in PARTS else ():
            trial.succeed(before)  # here: a plan holds for the very files that it was made for
        return trial

    def output(self, command: str) -> dict[str, bytes]:
        """What the command leaves where nothing disturbs it."""
        if command not in self._outputs:
            trial = self.trial(command, self.folder / command)
            trial.succeed(command)
            self._outputs[command] = COMMANDS[command].content(trial.home)
        return self._outputs[command]

    def calls(self, moment: Moment, home: Path) -> list[int]:
        """How many calls a try makes that nothing disturbs, of each rank."""
        if moment.kind not in self._calls:
            (counted := home.with_name(f"counted {home.name}")).mkdir()
            trial = self.trial(moment.task, home.with_name("undisturbed"))
            trial.change(moment.parameters)
            fault = fault_of("count", 0, 0, trial, moment.thread)
            done = trial.task(moment.task, fault, moment.in_a_rank, counted=str(counted))
            assert done.returncode == 0, done.stdout + done.stderr
            found = {int(file.name): int(file.read_text()) for file in counted.iterdir()}
            self._calls[moment.kind] = [found[rank] for rank in sorted(found)]
        return self._calls[moment.kind]


def fault_of(act: str, count: int, rank: int, trial: Trial, thread: str = "") -> Fault:
    return Fault("", "", act, "any", re.escape(str(trial.home)), count, rank, thread=thread)
