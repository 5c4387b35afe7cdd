"""Which run holds which cards of this host: what stands in the folders by which launches share them out.

`shardline.launch.card_leases` says what lies there. To look is to lock a file for a moment, so that nobody chooses
cards meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from shardline.run.directory import Home


@dataclass(frozen=True)
class Holder:
    """Who holds a card: a run, by its folder, and the launch's process."""

    run: str
    pid: int


def folder_of(home: Home, kind: str) -> Path:
    """Where the cards of one kind of this host are shared out."""
    return home.path / "cards" / socket.gethostname() / kind


def card_file(folder: Path, card: int) -> Path:
    """What is locked by the launch that holds the card."""
    return folder / f"card.{card}"


@contextmanager
def choosing(folder: Path) -> Iterator[None]:
    """Keep all others from choosing cards while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_lock(file: IO[Any]) -> bool:
    """Hold the open file, unless somebody else does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether a living process holds the file; to be asked only while choosing, since asking locks it for a moment."""
    with path.open("a") as file:
        return not try_lock(file)


def holders(folder: Path, cards: Sequence[int]) -> dict[int, Holder]:
    """Who holds which of the cards now."""
    with choosing(folder):
        files = {card: card_file(folder, card) for card in cards}
        return {card: Holder(**json.loads(file.read_text())) for card, file in files.items() if is_locked(file)}


def by_run(held: Mapping[int, Holder]) -> dict[str, list[int]]:
    """The cards of each run."""
    cards: dict[str, list[int]] = {}
    for card, holder in held.items():
        cards.setdefault(holder.run, []).append(card)
    return cards


def held_cards(home: Home) -> dict[str, dict[str, list[int]]]:
    """Which run holds which cards of this host, by the cards' kind."""
    held = {}
    for folder in sorted(folder_of(home, "any").parent.glob("*/")):
        cards = sorted(int(file.suffix[1:]) for file in folder.glob("card.*"))
        held[folder.name] = by_run(holders(folder, cards))
    return held
