"""Which save of which training is meant, where several trainings saved files into one folder.

What decides is what can be known, never a guess; `choose` says how. Where that leaves several, they are listed with
the options that choose one.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from shardline.base.errors import CheckpointError, ConfigError, MissingShard, StepMismatch
from shardline.base.json_object import read_object
from shardline.checkpoint.shards.rank_files import SUFFIXES, UNNUMBERED, Moment, lineage, named_rank, readings
from shardline.checkpoint.shards.trainings import Training, Wanted, written

CLOSE = 60.0
"""Seconds. Times that are closer say nothing: files that were copied have the copy's, in any order."""
_ONE_SAVE = 600.0
"""Seconds within which all ranks save one step, unless something is odd."""
_META = "meta.json"
_MOST_LISTED = 16


@dataclass(frozen=True)
class Choice:
    """A save that all ranks have, and what the user should know about it."""

    training: Training
    moment: Moment
    notices: tuple[str, ...]

    @property
    def files(self) -> Mapping[int, Path]:
        return self.training.saves[self.moment]


def choose(directory: Path, trainings: Sequence[Training], ranks: AbstractSet[int], wanted: Wanted) -> Choice:
    """The newest save of the training that is meant, of those that all of `ranks` have.

    Of several trainings, the one is meant that every rank's `meta.json` names (MindFormers writes it with each save),
    unless the files' times contradict; or the last restart by MindSpore's numbers, where the times say so too. Files
    that were saved when training failed are passed over where they are older. Within a training the greatest epoch and
    step is the newest.

    `StepMismatch` where several could be meant, or ranks of two trainings are mixed; `MissingShard` where there is
    none; `ConfigError` where `wanted` is of several epochs.
    """
    complete = [training.only(moments) for training in wanted.of(trainings) if (moments := training.moments_of(ranks))]
    if not complete:
        raise nothing_complete(directory, trainings, ranks, wanted)
    training = _meant(directory, complete, ranks)
    moment = _newest(directory, training, wanted)
    choice = Choice(training, moment, ())
    mixed = tuple(_mixed(choice, trainings, ranks))
    if mixed and wanted.prefix != training.prefix:
        raise StepMismatch(
            f"{directory}: {mixed[0]}. Move the files of one training elsewhere, or, if they are of one, say "
            f"--prefix {shlex.quote(training.prefix)}"
        )
    return replace(choice, notices=(*_notices(choice, complete, trainings, ranks, wanted), *mixed))


def _meant(directory: Path, complete: Sequence[Training], ranks: AbstractSet[int]) -> Training:
    if len(complete) == 1:
        return complete[0]
    regular = [training for training in complete if not training.is_breakpoint] or list(complete)
    chosen = regular[0] if len(regular) == 1 else _named_by_meta(regular, ranks) or _last_restart(regular)
    breakpoints = [training for training in complete if training not in regular]
    if chosen is None or not all(_is_older(training, chosen) for training in breakpoints):
        raise _several(directory, complete)
    return chosen


def _named_by_meta(trainings: Sequence[Training], ranks: AbstractSet[int]) -> Training | None:
    """The training whose file all ranks' `meta.json` name; `None` where they name none, or times contradict."""
    for training in trainings:
        files = next(iter(training.saves.values()))
        if all(_is_of(training, rank, files[rank].with_name(_META)) for rank in ranks):
            is_contradicted = any(_is_newer(other, training) for other in trainings if other is not training)
            return None if is_contradicted else training
    return None


def _is_of(training: Training, rank: int, meta: Path) -> bool:
    try:
        name = read_object(meta, "record of the last save").get("last_ckpt_file")
    except CheckpointError:
        return False  # one that cannot be read names nothing
    if not isinstance(name, str) or not name.endswith(SUFFIXES):
        return False
    return any(reading.label == training.label for reading in readings(name, rank))


def _last_restart(trainings: Sequence[Training]) -> Training | None:
    """The last of several restarts of one training, by number and by time; `None` where they are not that."""
    prefixes = frozenset(training.prefix for training in trainings)
    lines: dict[int, list[Training]] = {}
    firsts = set()
    for training in trainings:
        first, restarts = lineage(training.prefix, prefixes)
        firsts.add(first)
        lines.setdefault(restarts, []).append(training)
    last, *others = lines.pop(max(lines))
    earlier = [training for line in lines.values() for training in line]
    is_last = len(firsts) == 1 and not others and all(_is_older(training, last) for training in earlier)
    return last if is_last else None


def _is_newer(other: Training, chosen: Training) -> bool:
    """Whether a rank has a file of `other` that is clearly newer than the last of `chosen`."""
    spans = ((other.span[rank], chosen.span[rank]) for rank in other.span.keys() & chosen.span.keys())
    return any(others > own + CLOSE for (_, others), (_, own) in spans)


def _is_older(other: Training, chosen: Training) -> bool:
    """Whether the last file of `other` is clearly older than the last of `chosen`, on every rank."""
    spans = ((other.span[rank], chosen.span[rank]) for rank in other.span.keys() & chosen.span.keys())
    return all(others + CLOSE < own for (_, others), (_, own) in spans)


def _newest(directory: Path, training: Training, wanted: Wanted) -> Moment:
    newest = max(training.saves)
    epochs = sorted({moment.epoch for moment in training.saves})
    if wanted.step is not None and len(epochs) > 1:
        raise ConfigError(
            f"step {wanted.step}: epochs {epochs} have one; give EPOCH_STEP, such as {newest.epoch}_{newest.step}"
        )
    later = [moment for moment in training.saves if moment != newest and _was_written_after(training, moment, newest)]
    if later:
        raise StepMismatch(
            f"{directory}: {training.name(newest)} has the greatest number, but {training.name(max(later))} was "
            "written after it on every rank; the files are of two trainings, or were copied without their times: "
            f"choose with --step {newest} or --step {max(later)}"
        )
    return newest


def _was_written_after(training: Training, moment: Moment, newest: Moment) -> bool:
    files = training.saves[moment]
    return all(written(files[rank]) > written(path) + CLOSE for rank, path in training.saves[newest].items())


def _mixed(choice: Choice, trainings: Sequence[Training], ranks: AbstractSet[int]) -> Iterator[str]:
    """What to say where some ranks' files may be of one training, and other ranks' of the next, under one name.

    MindSpore numbers a restart on those ranks alone whose folders hold older files.
    """
    times = [written(choice.files[rank]) for rank in ranks]
    for other in trainings:
        if other.moments_of(ranks) or other.is_breakpoint or not other.span:
            continue
        began = min(first for first, _ in other.span.values())
        if _is_restart_of(other, choice.training) and max(times) > began:
            is_mixed = True
        else:
            is_mixed = min(times) + CLOSE < began < max(times) - CLOSE
        if is_mixed:
            yield (
                f"{choice.training.name(choice.moment)} is on all ranks, but was not written before "
                f"{other.name(max(other.saves))}, which is on ranks {_holders(other)} alone: some ranks' files may be "
                "of one training and others' of the next"
            )


def _is_restart_of(other: Training, training: Training) -> bool:
    pair = frozenset((other.prefix, training.prefix))
    own, found = lineage(training.prefix, pair), lineage(other.prefix, pair)
    return found.first == own.first and found.restarts > own.restarts


def _notices(
    choice: Choice, complete: Sequence[Training], trainings: Sequence[Training], ranks: AbstractSet[int], wanted: Wanted
) -> Iterable[str]:
    taken = choice.training.name(choice.moment)
    if wanted.step is None:
        own = next(found for found in trainings if found.label == choice.training.label)
        newer = max((moment for moment in own.saves if moment > choice.moment), default=None)
        if newer is not None and wanted.of([own.only([newer])]):
            yield (
                f"taking {taken}, the newest that all ranks have; {own.name(newer)} is on ranks "
                f"{sorted(own.saves[newer])[:_MOST_LISTED]} only"
            )
    for other in complete:
        if other is not choice.training:
            yield (
                f"taking {taken}, not {other.name(max(other.saves))} of "
                f"{'a training that failed' if other.is_breakpoint else 'an earlier training'}; "
                f"{_option(other, complete)} takes that"
            )
    for other in trainings:
        if other.span and not other.moments_of(ranks) and wanted.of([other]):
            yield (
                f"taking {taken}; {other.name(max(other.saves))} is on ranks {_holders(other)} only, and no other save "
                "of that training is on all"
            )
    yield from _spread(choice, ranks)


def _holders(training: Training) -> list[int]:
    """The first of the ranks that have its newest save."""
    return sorted(training.saves[max(training.saves)])[:_MOST_LISTED]


def _spread(choice: Choice, ranks: AbstractSet[int]) -> Iterable[str]:
    """What to say where the ranks' files were not written together."""
    times = {rank: written(choice.files[rank]) for rank in ranks}
    first, last = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    if times[last] - times[first] > _ONE_SAVE:
        yield (
            f"{choice.files[first].name} of rank {first} was written {_when(times[first])}, that of rank {last} "
            f"{_when(times[last])}: unless they were copied since, their ranks are of two trainings"
        )


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _option(training: Training, among: Sequence[Training]) -> str:
    """What to type to take `training` and none of the others."""
    alone = [other for other in among if other.prefix == training.prefix] == [training]
    newest = max(training.saves)
    return f"--prefix {shlex.quote(training.prefix if alone else training.name(newest))}"


def _several(directory: Path, complete: Sequence[Training]) -> StepMismatch:
    names = " and as ".join(training.name(max(training.saves)) for training in complete[:_MOST_LISTED])
    failed = [training for training in complete if training.is_breakpoint]
    why = "by different runs"
    if failed and len(failed) == len(complete) - 1:
        why = "the last when training failed, and it isn't older than the others"
    return StepMismatch(
        f"{directory}: the newest was saved as {names}, {why}; nothing says which is meant, so choose one:\n"
        + "\n".join(_listed(training, complete) for training in complete[:_MOST_LISTED])
    )


def _listed(training: Training, among: Sequence[Training]) -> str:
    newest = max(training.saves)
    last = max(written(path) for path in training.saves[newest].values())
    return f"  {_option(training, among):<32} {training.name(newest)}, written {_when(last)}"


def nothing_complete(
    directory: Path, trainings: Sequence[Training], ranks: AbstractSet[int], wanted: Wanted
) -> CheckpointError:
    """The error to raise where no save that is `wanted` is on all of `ranks`."""
    having = [training for training in trainings if training.moments_of(ranks)]
    there = [f"{t.name(moment)}" for t in having for moment in t.moments_of(ranks)[-3:]]
    instead = f"; all ranks have {', '.join(there[:_MOST_LISTED])}" if there else ""
    of_prefix = Wanted(prefix=wanted.prefix).of(trainings)
    if wanted.prefix is not None and not of_prefix:
        found = sorted({training.prefix for training in trainings})
        return MissingShard(
            f"{directory}: no file has the prefix {wanted.prefix!r}; there are {', '.join(found[:_MOST_LISTED])}"
        )
    if wanted.step is not None:
        holders = {rank for training in wanted.of(trainings) for files in training.saves.values() for rank in files}
        without = sorted(ranks - holders)
        if without:
            return MissingShard(
                f"{directory}: ranks {without[:_MOST_LISTED]} have no checkpoint of step {wanted.step}{instead}"
            )
    newest: dict[str, list[int]] = {}
    for rank in sorted(ranks):
        newest.setdefault(_newest_of(of_prefix, rank), []).append(rank)
    found_there = "; ".join(f"ranks {held[:_MOST_LISTED]}: {name}" for name, held in sorted(newest.items())[:8])
    of_step = f" of step {wanted.step}" if wanted.step is not None else ""
    return StepMismatch(
        f"{directory}: the ranks have no step in common: no save{of_step} of one training and one format is on all of "
        f"them (newest: {found_there}){instead}; "
        f"{_misplaced(trainings) or 'copy the missing files here, or move those of another training elsewhere'}"
    )


def _newest_of(trainings: Sequence[Training], rank: int) -> str:
    held = [(moment, files[rank].name) for t in trainings for moment, files in t.saves.items() if rank in files]
    return max(held, default=(UNNUMBERED, "none"))[1]


def _misplaced(trainings: Sequence[Training]) -> str:
    """What to say where a file's name speaks of another rank than the one whose folder it lies in."""
    for training in trainings:
        for files in training.saves.values():
            for rank, path in files.items():
                if named_rank(path.name) not in (None, rank):
                    return f"{path} names rank {named_rank(path.name)}: is every file in its own rank's folder?"
    return ""
