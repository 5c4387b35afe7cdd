"""What the name of a rank's checkpoint file says: which training saved it, when, and on which rank.

    PREFIX-EPOCH_STEP.SUFFIX                     MindSpore's ModelCheckpoint
    PREFIX_1-EPOCH_STEP.SUFFIX                   the same, once started again in a folder that holds such files
    PREFIX-EPOCH_STEP_breakpoint.ckpt            the same, when training failed (exception_save)
    PREFIX_rank_N-EPOCH_STEP.SUFFIX              MindFormers 1.x; ttp_rank_N: MindSpore's TrainFaultTolerance
    PREFIX_rank_N_1-EPOCH_STEP.SUFFIX            MindFormers 1.x, once started again
    PREFIX_rank_N-network[-EPOCH_STEP].SUFFIX    MindFormers 1.x, weights alone
    ANYTHING.SUFFIX, ANYTHINGN.SUFFIX            a prefix that a function made; MindSpore's transform_checkpoints

Read in mindspore/train/callback/_checkpoint.py, train/model.py and train/callback/_train_fault_tolerance.py of 2.10.0,
and mindformers/core/callback/callback.py of 1.x.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".ckpt", ".safetensors")
_NUMBERED = re.compile(
    r"(?P<prefix>.+)-(?P<epoch>[0-9]{1,18})_(?P<step>[0-9]{1,18})(?P<breakpoint>_breakpoint)?", re.DOTALL
)
_NAMES_RANK = re.compile(
    r"(?P<before>(?:.*[^a-z0-9])?rank[_-]?)(?P<rank>[0-9]{1,18})(?P<after>(?![0-9]).*)", re.DOTALL | re.IGNORECASE
)
_ENDS_IN_NUMBER = re.compile(r"(?P<before>.*?)(?P<rank>0|[1-9][0-9]{0,17})(?P<after>)", re.DOTALL)
_RESTARTED = re.compile(
    r"(?P<first>.*rank[_-]?\*)(?:_(?P<number>[1-9][0-9]*))?(?P<rest>-.*)?", re.DOTALL | re.IGNORECASE
)


class Moment(NamedTuple):
    """When a file was saved, as its name says. Greater is later."""

    epoch: int
    step: int

    def __str__(self) -> str:
        return f"{self.epoch}_{self.step}"


UNNUMBERED = Moment(-1, -1)
"""Of a file whose name says nothing of when."""


class Label(NamedTuple):
    """What the names of one training's files have in common. In `prefix`, the rank's own number is `*`.

    `is_padded` says that epoch or step have leading zeros: such a file is another than the one without.
    """

    prefix: str
    suffix: str
    is_breakpoint: bool = False
    is_padded: bool = False


class Reading(NamedTuple):
    """What a file's name says."""

    label: Label
    moment: Moment


def readings(name: str, rank: int) -> Iterator[Reading]:
    """What the name of a file of `rank` may say: with the rank's number in it, if it has one there, or without."""
    stem, suffix = _split(name)
    match = _NUMBERED.fullmatch(stem)
    if match is None:
        prefix, moment, is_breakpoint, is_padded = stem, UNNUMBERED, False, False
    else:
        prefix, moment = match["prefix"], Moment(int(match["epoch"]), int(match["step"]))
        is_breakpoint = match["breakpoint"] is not None
        is_padded = f"{match['epoch']}_{match['step']}" != str(moment)
    for read in dict.fromkeys((_without_rank(prefix, rank), prefix)):
        yield Reading(Label(read, suffix, is_breakpoint, is_padded), moment)


def _split(name: str) -> tuple[str, str]:
    suffix = next(suffix for suffix in SUFFIXES if name.endswith(suffix))
    return name.removesuffix(suffix), suffix


def _without_rank(prefix: str, rank: int) -> str:
    for pattern in (_NAMES_RANK, _ENDS_IN_NUMBER):
        match = pattern.fullmatch(prefix)
        if match is not None:
            return f"{match['before']}*{match['after']}" if int(match["rank"]) == rank else prefix
    return prefix


def named_rank(name: str) -> int | None:
    """The rank that a file's name has in it, as in PREFIX_rank_3-1_2.ckpt; `None` where it names none."""
    stem, _ = _split(name)
    match = _NAMES_RANK.fullmatch(stem)
    return None if match is None else int(match["rank"])


class Lineage(NamedTuple):
    """The prefix with which a training first saved, and how often it was started again since."""

    first: str
    restarts: int


def lineage(prefix: str, prefixes: frozenset[str]) -> Lineage:
    """Whose restart `prefix` is, where there are `prefixes`.

    MindSpore appends `_1` to a prefix of which there are files already, and then the next number. A prefix may end
    like that by itself (`exp_1`), so that it counts as a restart only beside the first one's files, or where the
    number stands behind the rank's.
    """
    match = _RESTARTED.fullmatch(prefix)
    if match is not None:
        return Lineage(match["first"] + (match["rest"] or ""), int(match["number"] or 0))
    first, _, number = prefix.rpartition("_")
    if first in prefixes and re.fullmatch(r"[1-9][0-9]{0,17}", number):
        return Lineage(first, int(number))
    return Lineage(prefix, 0)


def by_reading(files: Mapping[int, Sequence[Path]]) -> dict[Reading, dict[int, Path]]:
    """Every rank's files by what their names say; of two possible readings of a name the one that more ranks share."""
    shared = Counter(read for rank, paths in files.items() for path in paths for read in readings(path.name, rank))
    found: dict[Reading, dict[int, Path]] = {}
    for rank, paths in files.items():
        for path in paths:
            read = max(readings(path.name, rank), key=shared.__getitem__)
            found.setdefault(read, {})[rank] = path
    return found
