"""MindFormers' Checkpoint 2.0 as a source of slices: which iteration, its files, and the plan that its metadata makes.

    checkpoint/latest_checkpointed_iteration.txt     a hint: it is written last, in place
    checkpoint/iteration_00000010/metadata.json      without it the iteration was not saved to its end, and is none
                                  common.json
                                  PREFIX-model-0000000-0000002.safetensors, PREFIX-opt-…

No strategy is needed, and the plan is one like any other: it is executed, proved and recorded by the same code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from shardline.base.counts import counted, of_count
from shardline.base.errors import ConfigError, CorruptShard, LayoutError, MissingShard
from shardline.checkpoint.formats.checkpoint2 import METADATA, Metadata, StoredTensor, read_common, read_metadata
from shardline.checkpoint.formats.checkpoint2_storage import StoredSlice, kind_of
from shardline.checkpoint.formats.file_index import FileIndex, TensorHeader
from shardline.checkpoint.formats.safetensors_file import index_safetensors
from shardline.checkpoint.shards.finding import SliceSet
from shardline.checkpoint.shards.plan import Copy, Plan, PlannedTensor, with_new_names
from shardline.checkpoint.shards.selection import Selection, check_listed
from shardline.checkpoint.shards.shard_set import CHECKPOINT2, ShardSet, digest_message
from shardline.checkpoint.strategy.layout import replicated
from shardline.checkpoint.strategy.strategy_file import StagedLayouts

TRACKER = "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"iteration_(\d{1,18})")
_LARGEST_HINT = 64


@dataclass(frozen=True)
class Iteration:
    """One complete iteration: its folder, its number where the folder's name says it, and what to say of the choice."""

    folder: Path
    number: int | None
    notices: tuple[str, ...] = ()

    @property
    def step(self) -> str:
        return "" if self.number is None else str(self.number)


def iteration_folder(number: int) -> str:
    """The name that MindFormers gives the folder of an iteration."""
    return f"iteration_{number:08d}"


def is_checkpoint2(folder: Path) -> bool:
    """Whether `folder` is one that MindFormers saved Checkpoint 2.0 into, or one iteration of it, complete or not."""
    if not folder.is_dir():
        return False
    return (
        (folder / METADATA).exists()
        or (folder / TRACKER).exists()
        or _ITERATION.fullmatch(folder.resolve().name) is not None
        or any(True for _ in _iterations(folder))
    )


def find_iteration(folder: Path, step: str | None = None) -> Iteration:
    """The iteration to take in `folder`: itself, or in a folder of several the newest complete one, or that of `step`.

    `MissingShard` where it isn't there or isn't complete, `ConfigError` where `step` is no iteration's number or
    contradicts the folder.
    """
    if step is not None and not step.isdecimal():
        raise ConfigError(f"step {step!r}: {folder} holds iterations of Checkpoint 2.0; give the number of one")
    match = _ITERATION.fullmatch(folder.resolve().name)
    if match or (folder / METADATA).exists():
        number = int(match[1]) if match else None
        if step is not None and number != int(step):
            raise ConfigError(
                f"step {step}: {folder} is {f'iteration {number}' if match else 'one iteration'}; leave --step out, or "
                "give the folder above it"
            )
        return Iteration(_complete(folder), number)
    return _choose(folder, step)


def all_iterations(folder: Path) -> list[tuple[int, bool]]:
    """The iterations in `folder` by number, and whether each was saved to its end."""
    return [(number, (path / METADATA).is_file()) for number, path in sorted(_iterations(folder))]


def complete_iterations(folder: Path) -> list[tuple[int, Path]]:
    """The iterations in `folder` that were saved to their end; `ConfigError` where it is one of them itself."""
    if (folder / METADATA).exists() or _ITERATION.fullmatch(folder.resolve().name):
        raise ConfigError(f"{folder} is one iteration; give the folder above it, which holds the iterations")
    return [(number, path) for number, path in sorted(_iterations(folder)) if (path / METADATA).is_file()]


def _iterations(folder: Path) -> Iterable[tuple[int, Path]]:
    for path in folder.iterdir():
        match = _ITERATION.fullmatch(path.name)
        if match and path.is_dir():
            yield int(match[1]), path


def _choose(folder: Path, step: str | None) -> Iteration:
    found = sorted(_iterations(folder))
    if step is not None:
        found = [(number, path) for number, path in found if number == int(step)]
        if not found:
            there = [number for number, _ in sorted(_iterations(folder))]
            raise MissingShard(f"{folder}: expected an iteration {step}, found {there[-16:] or 'none'}")
    complete = [(number, path) for number, path in found if (path / METADATA).is_file()]
    if not complete:
        if found:
            _complete(found[-1][1])  # says why not
        raise MissingShard(f"{folder}: expected folders iteration_N of Checkpoint 2.0, found none")
    number, path = complete[-1]
    if twins := [other.name for same, other in complete[:-1] if same == number]:
        raise ConfigError(
            f"{folder}: iteration {number} is there as {', '.join(twins)} and {path.name}; give one of them"
        )
    return Iteration(path, number, () if step is not None else _notices(folder, found, number))


def _notices(folder: Path, found: Sequence[tuple[int, Path]], chosen: int) -> tuple[str, ...]:
    notices = [
        f"taking iteration {chosen}; {path.name} has no {METADATA}, so that it was not saved to its end"
        for number, path in found
        if number > chosen
    ]
    hint = _hint(folder / TRACKER)
    if hint is not None and hint != str(chosen):
        notices.append(f"taking iteration {chosen}, the newest that is complete; {TRACKER} says {hint!r}")
    return tuple(notices)


def _hint(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_HINT).decode(errors="replace").strip()
    except OSError:
        return None  # it is written in place, and last: without it nothing is missing


def _complete(folder: Path) -> Path:
    if (folder / METADATA).is_file():
        return folder
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        raise MissingShard(f"{folder}: expected an iteration of Checkpoint 2.0, found neither {METADATA} nor slices")
    single = [name for name in files if name.endswith("-0000000-0000001.safetensors")]
    if single == files:
        raise MissingShard(
            f"{folder} has no {METADATA}: a run on a single card writes none, and neither does a save that was killed. "
            f"Of a single card the files hold whole tensors: give one, such as {folder / files[0]}, as --from"
        )
    raise MissingShard(
        f"{folder} has no {METADATA}, which is written last: the save was killed, or not all was copied; take another "
        "iteration (--step N)"
    )


def plan_checkpoint2(iteration: Iteration, selection: Selection, is_adopted: bool = True) -> Plan:
    """The plan that merges the slices of `iteration` into whole tensors, as its metadata says they are cut.

    What lies there is compared with its manifest, where it `is_adopted` and has one.

    Raises `MissingShard` for a slice that no file holds, `LayoutError` where a file contradicts the metadata, beside
    what `read_metadata` raises.
    """
    metadata = read_metadata(iteration.folder / METADATA)
    shard_set = _manifest_of(iteration, metadata) if is_adopted else None
    files = _index_files(iteration.folder, metadata)
    slices = SliceSet(
        iteration.folder,
        tuple(files.values()),
        iteration.step,
        shard_set,
        notices=(*iteration.notices, *_left_aside(iteration.folder, metadata, files)),
        facts={"metadata": metadata.digest, "common": read_common(iteration.folder)},
    )
    return plan_as_described(metadata, slices, selection)


def _manifest_of(iteration: Iteration, metadata: Metadata) -> ShardSet | None:
    """The manifest of an adopted iteration, its files of the sizes that it names; `None` where there is none."""
    above = iteration.folder.resolve().parent
    if iteration.number is None or not ShardSet.path(above, iteration.number).exists():
        return None
    shard_set = ShardSet.read(ShardSet.path(above, iteration.number))
    if shard_set.files != CHECKPOINT2:
        return None
    files = {item: shard_set.file_of_its_size(above, item) for item in shard_set.slices}
    described = next((item for item, file in files.items() if file.name == METADATA), None)
    if described is None or files[described].parent != iteration.folder.resolve():
        return None
    if described.digest != metadata.digest:
        raise CorruptShard(digest_message(shard_set, described, files[described], metadata.digest))
    return shard_set


def plan_as_described(metadata: Metadata, slices: SliceSet, selection: Selection) -> Plan:
    """The same of files that were found and indexed, each with the rank that saved it."""
    files = slices.files
    numbers = {file.path.name: number for number, file in enumerate(files)}
    names = _selected(metadata, slices, selection)
    tensors = tuple(_plan_tensor(metadata, metadata.tensors[name], numbers, slices, selection) for name in names)
    layouts = {tensor.header.name: tensor.copies[0].layout for tensor in tensors}
    staged, unmatched = StagedLayouts((layouts,), len(files)), selection.unmatched(metadata.tensors)
    renamed, unused = with_new_names(tensors, selection)
    notices = (*_states_left_out(metadata, selection), *unused)
    return Plan(slices, staged, renamed, selection, integrated=False, notices=notices, unmatched=unmatched)


def _states_left_out(metadata: Metadata, selection: Selection) -> Iterable[str]:
    if selection.weights_only and selection.trainable is None:
        count = sum(not _is_weight(metadata, name) for name in metadata.slices)
        yield (
            f"weights only: {counted(count, 'tensor')} that the optimizer's files hold "
            f"{of_count(count, 'was', 'were')} left out; the files' names say so"
        )


def _index_files(folder: Path, metadata: Metadata) -> dict[str, FileIndex]:
    """Every file that the metadata names, by name, in the order of kinds, ranks and names."""
    ranks: dict[str, int] = {}
    for slices in metadata.slices.values():
        for entries in slices.values():
            for entry in entries:
                if ranks.setdefault(entry.file_name, entry.rank) != entry.rank:
                    raise LayoutError(
                        f"{folder / METADATA}: {entry.file_name} is of rank {ranks[entry.file_name]} for some slices, "
                        f"of rank {entry.rank} for others; the file is damaged or made by hand"
                    )
    return {
        name: _index(folder, name, ranks[name]) for name in sorted(ranks, key=lambda name: _place(name, ranks[name]))
    }


def _place(name: str, rank: int) -> tuple[str, int, str]:
    return kind_of(name) or "", rank, name


def _index(folder: Path, name: str, rank: int) -> FileIndex:
    path = folder / name
    if not path.is_file():
        raise MissingShard(f"{path} (rank {rank}): {METADATA} names it, but it is not there; copy it here")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CorruptShard(f"{path} is a symbolic link that leads out of {folder}, to {path.resolve()}; copy it here")
    return replace(index_safetensors(path), rank=rank)


def _left_aside(folder: Path, metadata: Metadata, files: Mapping[str, FileIndex]) -> Iterable[str]:
    """What lies there and goes into no output, because the metadata doesn't speak of it."""
    strangers = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in files)
    if strangers:
        yield (
            f"{counted(len(strangers), 'file')}, such as {strangers[0]}, {of_count(len(strangers), 'is', 'are')} not "
            f"named by {METADATA} and left aside"
        )
    held = {header.name for file in files.values() for header in file.schema.headers}
    if unknown := sorted(held.difference(metadata.slices)):
        yield (
            f"{counted(len(unknown), 'tensor')} in the files, such as {unknown[0]}, "
            f"{of_count(len(unknown), 'is', 'are')} not in {METADATA} and left aside"
        )
    if left_out := [name for name in metadata.unsaved if name not in metadata.slices]:
        yield (
            f"{counted(len(left_out), 'tensor')}, such as {left_out[0]}, {of_count(len(left_out), 'was', 'were')} not "
            "to be saved (allow_to_save), and not there"
        )


def _selected(metadata: Metadata, slices: SliceSet, selection: Selection) -> list[str]:
    """The names to merge, in the metadata's order. What is a weight is said by the kind of file that holds it."""
    names = [name for name in metadata.tensors if name in metadata.slices or name not in metadata.unsaved]
    if saved := next((name for name in metadata.unsaved if name in metadata.slices), None):
        raise LayoutError(
            f"{slices.directory / METADATA}: parameter {saved} is there, although its allow_to_save is false; nothing "
            "says which is true: leave the flag out, or the slices"
        )
    if selection.trainable is not None:
        check_listed(selection.trainable, names)
        listed = frozenset(selection.trainable)
        kept = [name for name in names if name in listed]
    else:
        kept = [name for name in names if _is_weight(metadata, name)] if selection.weights_only else names
    chosen = [name for name in kept if selection.matches(name)]
    if not chosen:
        raise MissingShard(
            f"{slices.directory}: none of the {counted(len(names), 'tensor')} is selected; widen --include or narrow "
            "--exclude"
        )
    return chosen


def _is_weight(metadata: Metadata, name: str) -> bool:
    kinds = {kind_of(entry.file_name) for entries in metadata.slices.get(name, {}).values() for entry in entries}
    if kinds <= {"model"}:
        return True
    if kinds == {"opt"}:
        return False
    files = sorted({entry.file_name for entries in metadata.slices[name].values() for entry in entries})
    raise ConfigError(
        f"--weights-only: parameter {name} lies in {', '.join(files[:4])}; expected names that say model or opt; give "
        "--include or --exclude instead"
    )


def _plan_tensor(
    metadata: Metadata,
    tensor: StoredTensor,
    numbers: Mapping[str, int],
    slices: SliceSet,
    selection: Selection,
) -> PlannedTensor:
    stored = metadata.slices.get(tensor.name, {})
    if missing := [number for number in range(prod(tensor.fragments)) if number not in stored]:
        raise MissingShard(
            f"{slices.directory}: parameter {tensor.name}: of {counted(prod(tensor.fragments), 'slice')}, "
            f"{len(missing)} {of_count(len(missing), 'is', 'are')} in no file, such as slice "
            f"{missing[0]}{_whose(tensor, missing[0])}; take another iteration"
        )
    held: dict[int, int] = {}
    for number, entries in sorted(stored.items()):
        for entry in entries:
            if numbers[entry.file_name] in held:
                raise LayoutError(f"parameter {tensor.name}: {entry.file_name} holds two slices of it, under one name")
            held[numbers[entry.file_name]] = _local_rank(tensor, number, entry)
    kind = _check_headers(tensor, held, slices)
    layout = replicated(1, len(tensor.shape)) if tensor.layout is None else tensor.layout.layout
    copy = Copy(0, layout, tuple(held), tuple(held.values()))
    header = TensorHeader(tensor.name, kind.type, tensor.shape)
    return PlannedTensor(header, selection.target(kind.type), (copy,), is_known=tensor.layout is not None)


def _whose(tensor: StoredTensor, number: int) -> str:
    if tensor.layout is None:
        return ""
    ranks = [rank for rank, held in zip(tensor.layout.ranks, tensor.layout.numbers, strict=True) if held == number]
    return f" of ranks {ranks[:16]}"


def _local_rank(tensor: StoredTensor, number: int, entry: StoredSlice) -> int:
    """The place in the layout of what a file holds: its rank's, or of a rank beyond the layout one with this slice."""
    if tensor.layout is None:
        return 0
    return tensor.layout.place_of.get(entry.rank, tensor.layout.first_place_of_slice[number])


def _check_headers(tensor: StoredTensor, held: Mapping[int, int], slices: SliceSet) -> TensorHeader:
    """The one header that all files have of a tensor, as the metadata describes it."""
    found: Counter[TensorHeader] = Counter()
    for number in held:
        file = slices.files[number]
        position = file.schema.positions.get(tensor.name)
        if position is None:
            raise MissingShard(
                f"{file.with_rank(number)}: {METADATA} says that it holds {tensor.name}, but it doesn't; take another "
                "iteration"
            )
        header = file.schema.headers[position]
        if header.shape != tensor.slice_shape or tensor.type not in (None, header.type):
            expected = f"{tensor.type.name if tensor.type else ''} {list(tensor.slice_shape)}".strip()
            raise LayoutError(
                f"{file.with_rank(number)}: parameter {tensor.name}: {METADATA} says {expected}, found "
                f"{header.type.name} {list(header.shape)}; the files are of different iterations, or damaged"
            )
        found[header] += 1
    if len(found) > 1:
        raise LayoutError(
            f"parameter {tensor.name} is {' and '.join(header.type.name for header in found)} in its files"
        )
    return next(iter(found))
