"""Which run holds which cards of a host: leases that end with the process that took them.

    HOME/cards/HOST/KIND/card.N      locked by the launch that holds card N; its content names the run
    HOME/cards/HOST/KIND/ticket.N    locked by a launch that waits; the lowest number chooses next
    HOME/cards/HOST/KIND/.lock       held for the moment in which somebody looks and chooses

All locks are the kernel's (`flock`): a process gives back what it held in whatever way it dies. A lease's files may be
passed on to mpirun, and then the cards are free only when mpirun is gone as well. Waiting is first come, first served,
so that a large run isn't overtaken by small ones for ever. KIND is CPU, GPU or Ascend; a CPU's cards are only numbers.

    shardline cards        who holds what on this host
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from shardline.base.counts import counted
from shardline.base.errors import ConfigError, LaunchError
from shardline.launch.patience import PATIENT, Patience
from shardline.run.directory import Home
from shardline.run.held_cards import Holder, by_run, card_file, choosing, folder_of, holders, is_locked, try_lock

CARDS = "SHARDLINE_CARDS"
SLOTS = "SHARDLINE_DEVICE_SLOTS"
_DEFAULT_SLOTS = 8
_TICKET = re.compile(r"ticket\.(\d+)")


@dataclass(frozen=True)
class Lease:
    """Cards that are this process's own, and the open files that prove it: pass them on to what uses the cards."""

    cards: tuple[int, ...]
    descriptors: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What tells the launch which cards to use."""
        return {CARDS: ",".join(map(str, self.cards))}


def cards_of(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The cards that may be leased here, by number: SHARDLINE_CARDS (`0,1,4`), or SHARDLINE_DEVICE_SLOTS from 0 on."""
    if listed := environment.get(CARDS):
        if not re.fullmatch(r"\d+(,\d+)*", listed) or len(set(listed.split(","))) < listed.count(",") + 1:
            raise ConfigError(f"{CARDS}: expected different card numbers such as 0,1,4, found {listed!r}")
        return tuple(int(card) for card in listed.split(","))
    slots = environment.get(SLOTS) or str(_DEFAULT_SLOTS)
    if not slots.isdecimal() or int(slots) < 1:
        raise ConfigError(f"{SLOTS}: expected a number of cards, at least 1, found {slots!r}")
    return tuple(range(int(slots)))


class CardLedger:
    """The cards of one host, as the launches on it share them."""

    def __init__(self, folder: Path, cards: Sequence[int], patience: Patience = PATIENT) -> None:
        self._folder = folder
        self._cards = tuple(cards)
        self._poll_s = patience.cards_poll_s

    @classmethod
    def of_this_host(cls, home: Home, kind: str, cards: Sequence[int], patience: Patience = PATIENT) -> CardLedger:
        """The ledger that all launches on this host share for cards of one kind, whichever run they belong to."""
        return cls(folder_of(home, kind), cards, patience)

    @contextmanager
    def lease(
        self, count: int, run: str, tell: Callable[[str], None], give_up: Callable[[], bool] = lambda: False
    ) -> Iterator[Lease]:
        """Hold `count` cards while the block runs, all of them where there are fewer.

        Until they are free, `tell` is told who holds them, each time that this changes; `LaunchError` once `give_up`.
        """
        count = min(count, len(self._cards))
        files = self._wait(count, Holder(run, os.getpid()), tell, give_up)
        try:
            yield Lease(tuple(files), tuple(file.fileno() for file in files.values()))
        finally:
            for file in files.values():
                file.close()

    def holders(self) -> dict[int, Holder]:
        """Who holds which card now."""
        return holders(self._folder, self._cards)

    def _wait(
        self, count: int, holder: Holder, tell: Callable[[str], None], give_up: Callable[[], bool]
    ) -> dict[int, IO[str]]:
        told = ""
        with self._ticket() as ticket:
            while True:
                with choosing(self._folder):
                    ahead = self._ahead_of(ticket)
                    if not ahead and (files := self._take(count, holder)):
                        return files
                if (reason := self._reason(count, ahead)) != told:
                    tell(reason)
                    told = reason
                if give_up():
                    raise LaunchError(f"stopped while it waited: {reason}")
                time.sleep(self._poll_s)

    @contextmanager
    def _ticket(self) -> Iterator[int]:
        """A place in the queue, behind everybody who waits."""
        with choosing(self._folder):
            number = max(self._tickets(), default=0) + 1
            path = self._folder / f"ticket.{number}"
            file = path.open("w")
            fcntl.flock(file, fcntl.LOCK_EX)
        with file:
            try:
                yield number
            finally:
                path.unlink(missing_ok=True)

    def _tickets(self) -> list[int]:
        """The numbers of all who wait; the tickets of those who died waiting are removed."""
        numbers = []
        for path in self._folder.iterdir():
            if match := _TICKET.fullmatch(path.name):
                if is_locked(path):
                    numbers.append(int(match[1]))
                else:
                    path.unlink(missing_ok=True)
        return numbers

    def _ahead_of(self, ticket: int) -> int:
        return sum(number < ticket for number in self._tickets())

    def _take(self, count: int, holder: Holder) -> dict[int, IO[str]]:
        """The locked files of the `count` lowest free cards, by card; none at all where fewer are free."""
        files: dict[int, IO[str]] = {}
        for card in self._cards:
            file: IO[str] = card_file(self._folder, card).open("a+")
            if len(files) < count and try_lock(file):
                files[card] = file
            else:
                file.close()
        if len(files) < count:
            for taken in files.values():
                taken.close()
            return {}
        for taken in files.values():
            taken.truncate(0)
            json.dump(asdict(holder), taken)
            taken.flush()
        return files

    def _reason(self, count: int, ahead: int) -> str:
        """What a launch waits for, in words."""
        queue = f", behind {counted(ahead, 'other')}" if ahead else ""
        held = "; ".join(f"{run} holds {_list(cards)}" for run, cards in by_run(self.holders()).items())
        return (
            f"waiting for {count} of {counted(len(self._cards), 'card')}{queue}: {held or 'they are free in a moment'}"
        )


def _list(cards: Sequence[int]) -> str:
    return ", ".join(map(str, cards))
