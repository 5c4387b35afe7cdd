"""Adopting the saves of one folder, each once it has settled: while a program runs, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shardline.base.errors import CheckpointError, ConfigError, MissingShard, OutputError, ShardlineError
from shardline.base.remedies import remedy
from shardline.checkpoint.shards.adoption import Adopted, Cut, adopt, is_adopted, withdraw_removed
from shardline.checkpoint.shards.saves import ANY, Save, passed_over, saves_in, why_there_is_none
from shardline.checkpoint.shards.trainings import Wanted

_STRATEGY, _FOLDER = "the strategy", "the folder"


@dataclass
class Adopter:
    """Adopts what is saved into `directory`, and tells what it did, and what it refused and why.

    `cut` is asked whenever there may be something to adopt, and says nothing while the strategy is yet to be written. A
    save has settled when its files were the same for `settled_after` seconds, or nobody writes any more.
    """

    directory: Path
    cut: Callable[[], Cut | None]
    tell: Callable[[str], None]
    settled_after: float = 0.0
    steps_per_epoch: int | None = None
    wanted: Wanted = ANY
    since: int = 0
    """When the program was started that saves, in ns: what it saves again counts in place of what was saved before."""
    only_since: bool = False
    """Whether saves from before that are left as they are."""
    counts: Callable[[Sequence[Path]], bool] = lambda _: True
    """Whether the files of a save are ones that are meant."""
    refused: dict[str, ShardlineError] = field(default_factory=dict)
    """The last reason for which each save was not adopted, by the save's name."""
    _seen: dict[str, tuple[Hashable, float]] = field(default_factory=dict)
    _done: dict[str, Hashable] = field(default_factory=dict)

    def look(self, now: float, has_ended: bool = False) -> list[Adopted]:
        """Adopt what has settled at `now`, seconds of a clock that never goes back; all, where the program `has_ended`.

        Saves that were refused are tried again at the end. What this raises is the folder's: that it cannot be read.
        """
        try:
            adopted = self._look(now, has_ended) if self.directory.is_dir() else []
        except OSError as error:
            self.refused[_FOLDER] = MissingShard(f"{self.directory}: cannot be read: {error.strerror}")
            return []
        self.refused.pop(_FOLDER, None)
        return adopted

    def _look(self, now: float, has_ended: bool) -> list[Adopted]:
        for path in withdraw_removed(self.directory):
            self.tell(f"{path.name} is withdrawn: the program has removed all of its files")
        cut = self._cut()
        if cut is None:
            return []
        found = saves_in(self.directory, cut.world_size, self.wanted)
        if self.only_since:
            found = [save for save in found if save.written >= self.since]
        due = [save for save in found if self._is_due(save, now, has_ended) and self.counts(save.files)]
        adopted = [each for save in due if (each := self._adopt(save, cut)) is not None]
        for notice in passed_over(self.directory, cut.world_size, self.wanted) if has_ended else ():
            self.tell(f"note: {notice}")
        return adopted

    def nothing_adopted(self) -> ShardlineError:
        """Why there is no adopted set: what is wrong with the newest save or its strategy, or what is missing."""
        if self.refused:
            return list(self.refused.values())[-1]
        cut = self._cut()
        return self.refused.get(_STRATEGY) or why_there_is_none(
            self.directory, None if cut is None else cut.world_size, self.wanted
        )

    def _cut(self) -> Cut | None:
        """How slices are cut; nothing where no strategy is there, or none that is whole: it may be early."""
        try:
            cut = self.cut()
        except (CheckpointError, ConfigError) as error:
            self.refused[_STRATEGY] = error
            return None
        self.refused.pop(_STRATEGY, None)
        return cut

    def _is_due(self, save: Save, now: float, has_ended: bool) -> bool:
        if self._done.get(save.name) == save.state and not (has_ended and save.name in self.refused):
            return False
        state, since = self._seen.get(save.name, (None, now))
        if state != save.state:
            self._seen[save.name] = (save.state, since := now)
        return has_ended or now - since >= self.settled_after

    def _adopt(self, save: Save, cut: Cut) -> Adopted | None:
        self._done[save.name] = save.state
        try:
            adopted = None if is_adopted(save) else adopt(save, cut, self.steps_per_epoch, replaces=self.since)
        except (CheckpointError, ConfigError) as error:
            self._refuse(save, error)
            return None
        except OSError as error:
            path = error.filename or self.directory
            self._refuse(save, OutputError(f"{path}: {error.strerror}; {remedy(error)}, then try again"))
            return None
        self.refused.pop(save.name, None)
        if adopted is not None:
            self.tell(str(adopted))
            for notice in adopted.notices:
                self.tell(f"note: {notice}")
        return adopted

    def _refuse(self, save: Save, error: ShardlineError) -> None:
        if str(error) != str(self.refused.get(save.name)):
            self.tell(f"{save.name} is not adopted: {error}")
        self.refused[save.name] = error
