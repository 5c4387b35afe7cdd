"""The trainings whose ranks saved files into one folder, by the files' names; and which of them are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from shardline.checkpoint.shards.rank_files import SUFFIXES, Label, Moment, by_reading, lineage


@dataclass(frozen=True)
class Training:
    """What one training saved under one prefix and in one format: for each moment, the ranks' files.

    A file that MindSpore saves when training fails counts as a training of its own (`is_breakpoint`): it may be of half
    a step, and its name doesn't say which restart it is of.
    """

    label: Label
    saves: Mapping[Moment, Mapping[int, Path]]

    @property
    def prefix(self) -> str:
        return self.label.prefix

    @property
    def is_breakpoint(self) -> bool:
        return self.label.is_breakpoint

    def moments_of(self, ranks: AbstractSet[int]) -> list[Moment]:
        """What all of `ranks` have, oldest first."""
        return sorted(moment for moment, files in self.saves.items() if ranks <= files.keys())

    def name(self, moment: Moment) -> str:
        """The name of its files of `moment`, as the first rank that has one has it."""
        files = self.saves[moment]
        return files[min(files)].name

    @cached_property
    def span(self) -> Mapping[int, tuple[float, float]]:
        """For each rank, when its first and its last file were written."""
        times: dict[int, list[float]] = {}
        for files in self.saves.values():
            for rank, path in files.items():
                times.setdefault(rank, []).append(written(path))
        return {rank: (min(found), max(found)) for rank, found in times.items()}

    def only(self, moments: Iterable[Moment]) -> Training:
        """The same without what it saved at other moments."""
        return replace(self, saves={moment: self.saves[moment] for moment in moments})


def written(path: Path) -> float:
    """When a file was last written to, in seconds since 1970."""
    return path.stat().st_mtime


def trainings_in(files: Mapping[int, Sequence[Path]]) -> list[Training]:
    """The trainings that saved `files`, which are the checkpoint files of each rank."""
    saves: dict[Label, dict[Moment, dict[int, Path]]] = {}
    for (label, moment), paths in by_reading(files).items():
        saves.setdefault(label, {})[moment] = paths
    return [Training(label, saves[label]) for label in sorted(saves)]


@dataclass(frozen=True)
class Wanted:
    """What the user says of the save that is meant: `step` is EPOCH_STEP or STEP, `prefix` a prefix or a glob."""

    step: str | None = None
    prefix: str | None = None

    def of(self, trainings: Sequence[Training]) -> list[Training]:
        """Those of `trainings` whose prefix is the one that is meant, with what they saved at the step that is."""
        chosen = self._of_prefix(trainings)
        if self.step is None:
            return chosen
        narrowed = (training.only(filter(self._is_step, training.saves)) for training in chosen)
        return [training for training in narrowed if training.saves]

    def _is_step(self, moment: Moment) -> bool:
        return self.step in (str(moment), str(moment.step))

    def _of_prefix(self, trainings: Sequence[Training]) -> list[Training]:
        if self.prefix is None:
            return list(trainings)
        if self.prefix.endswith(SUFFIXES):
            return [found for training in trainings if (found := self._of_name(training)).saves]
        prefixes = frozenset(training.prefix for training in trainings)
        for meant in (self._is_prefix, self._is_first_prefix(prefixes), self._matches):
            if chosen := [training for training in trainings if meant(training)]:
                return chosen
        return []

    def _of_name(self, training: Training) -> Training:
        wanted = self.prefix or ""
        names = {moment: training.name(moment) for moment in training.saves}
        return training.only(moment for moment, name in names.items() if name == wanted or fnmatchcase(name, wanted))

    def _is_prefix(self, training: Training) -> bool:
        return training.prefix == self.prefix

    def _is_first_prefix(self, prefixes: frozenset[str]) -> Callable[[Training], bool]:
        """MindFormers' own `prefix`, without the rank and the number of restarts."""
        return lambda training: lineage(training.prefix, prefixes).first == f"{self.prefix}_rank_*"

    def _matches(self, training: Training) -> bool:
        return fnmatchcase(training.prefix, self.prefix or "")
