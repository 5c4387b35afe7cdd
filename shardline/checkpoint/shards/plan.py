"""What a merge will do, decided from headers alone: which tensors, of which shape and type, from which ranks.

Everything that can be wrong with a set of slices without looking at their values is found here.
"""

from __future__ import annotations

import glob
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from shardline.base.counts import counted, of_count
from shardline.base.errors import LayoutError, MissingShard
from shardline.checkpoint.formats.file_index import FileIndex, Schema, TensorHeader
from shardline.checkpoint.formats.tensor_types import TensorType
from shardline.checkpoint.shards.absences import check_absences
from shardline.checkpoint.shards.finding import SliceSet
from shardline.checkpoint.shards.renaming import rename
from shardline.checkpoint.shards.roles import cut_like
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.training_record import recorded_parameters
from shardline.checkpoint.strategy.layout import Layout, replicated
from shardline.checkpoint.strategy.strategy_file import StagedLayouts


@dataclass(frozen=True)
class Copy:
    """One complete copy of a tensor: the slices that the ranks of one pipeline stage hold between them.

    `holders` are the numbers of the files that have slices of it, in their slice set: where every rank has one file,
    the global ranks of the stage, all of them unless redundancy was removed. `places` are the local ranks of `layout`
    whose slices these are, one for each holder; `None` stands for the holders' numbers counted from `first_rank`.
    """

    first_rank: int
    layout: Layout
    holders: tuple[int, ...]
    places: tuple[int, ...] | None = None

    def local_ranks(self) -> tuple[int, ...]:
        """The local rank of `layout` whose slice each holder has, in the holders' order."""
        return tuple(holder - self.first_rank for holder in self.holders) if self.places is None else self.places


@dataclass(frozen=True)
class PlannedTensor:
    """A whole tensor of the merged checkpoint, and the copies of it that the slices hold.

    `header` has the slices' name and element type and the whole shape; `target` is the element type that is written,
    and `new_name` the name, where it is another. A tensor that the strategy doesn't know is `replicated`: every rank is
    expected to hold it whole, and equal.
    """

    header: TensorHeader
    target: TensorType
    copies: tuple[Copy, ...]
    is_known: bool
    new_name: str | None = None

    @property
    def merged(self) -> TensorHeader:
        """The tensor as it stands in the output."""
        return TensorHeader(self.new_name or self.header.name, self.target, self.header.shape)


@dataclass(frozen=True)
class Plan:
    """A merge, decided but not executed."""

    slices: SliceSet
    layouts: StagedLayouts
    tensors: tuple[PlannedTensor, ...]
    selection: Selection
    integrated: bool
    notices: tuple[str, ...] = ()
    """What the user should know of what was left out, and of what isn't there."""
    unmatched: tuple[str, ...] = ()
    """Patterns of the selection that match neither a tensor nor a parameter that the strategy knows."""

    @property
    def bytes_out(self) -> int:
        return sum(tensor.merged.size for tensor in self.tensors)


def plan_merge(slices: SliceSet, layouts: StagedLayouts | None, selection: Selection, integrated: bool) -> Plan:
    """The plan that merges `slices`, sharded as `layouts` say, into whole tensors.

    Where they are `integrated` every rank's file is whole (`integrated_save`), and all are expected to be equal;
    `layouts` then only say which parameters the strategy knows.

    Raises `MissingShard` for a slice that no rank holds, `LayoutError` where shapes or types contradict the strategy
    or one another.
    """
    nothing = StagedLayouts(({},), len(slices.files))
    staged = nothing if integrated or layouts is None else layouts
    ranks = _ranks_by_schema(slices.files)
    headers = _first_headers(ranks)
    absences = check_absences(slices.directory, headers, layouts, selection) if layouts else ()
    if integrated:
        _check_whole(slices, ranks, headers)
    recorded = recorded_parameters(slices) if selection.weights_only else None
    chosen, notices = selection.choose(headers, layouts.by_name if layouts else None, recorded)
    if not chosen:
        raise MissingShard(
            f"{slices.directory}: none of the {counted(len(headers), 'tensor')} is selected; widen --include or narrow "
            "--exclude"
        )
    _check_not_slices([headers[name] for name in chosen], staged, headers, selection)
    tensors = [_plan_tensor(name, staged, ranks, slices, selection) for name in chosen]
    unmatched = selection.unmatched({*headers, *(layouts.names if layouts else ())})
    renamed, unused = with_new_names(tensors, selection)
    return Plan(slices, staged, renamed, selection, integrated, (*absences, *notices, *unused), unmatched)


def with_new_names(
    tensors: Sequence[PlannedTensor], selection: Selection
) -> tuple[tuple[PlannedTensor, ...], tuple[str, ...]]:
    """`tensors` with the names that the selection's rules give them, and a notice for each rule that gives none."""
    names, unused = rename((tensor.header.name for tensor in tensors), selection.rename)
    notices = tuple(f"{rule.where} renames none of the {counted(len(tensors), 'tensor')}" for rule in unused)
    new = {tensor.header.name: names[tensor.header.name] for tensor in tensors}
    return tuple(
        replace(tensor, new_name=new[tensor.header.name]) if new[tensor.header.name] != tensor.header.name else tensor
        for tensor in tensors
    ), notices


def _ranks_by_schema(files: Sequence[FileIndex]) -> dict[Schema, list[int]]:
    ranks: dict[Schema, list[int]] = {}
    for rank, file in enumerate(files):
        ranks.setdefault(file.schema, []).append(rank)
    return ranks


def _first_headers(ranks: Mapping[Schema, Sequence[int]]) -> dict[str, TensorHeader]:
    """Every tensor's header on the first rank that has it, in that order."""
    headers: dict[str, TensorHeader] = {}
    for schema in ranks:
        for header in schema.headers:
            headers.setdefault(header.name, header)
    return headers


def _check_whole(slices: SliceSet, ranks: Mapping[Schema, Sequence[int]], names: Iterable[str]) -> None:
    """`MissingShard` where a rank's file, which should be the whole model, lacks a tensor that another has."""
    for schema, holders in ranks.items():
        missing = [name for name in names if name not in schema.positions]
        if missing and not slices.files[holders[0]].removes_redundancy:
            raise MissingShard(
                f"{slices.files[holders[0]].path} (rank {holders[0]}): expected the whole model, "
                f"but {counted(len(missing), 'tensor')} {of_count(len(missing), 'is', 'are')} missing, such as "
                f"{missing[0]}; take another step"
            )


def _plan_tensor(
    name: str,
    staged: StagedLayouts,
    ranks: Mapping[Schema, Sequence[int]],
    slices: SliceSet,
    selection: Selection,
) -> PlannedTensor:
    found: dict[TensorHeader, list[int]] = {}
    for schema, holders in ranks.items():
        if name in schema.positions:
            found.setdefault(schema.headers[schema.positions[name]], []).extend(holders)
    is_known = any(name in layouts for layouts in staged.stages)
    try:
        copies, header = (_sharded_copies if is_known else _whole_copies)(name, staged, found, slices)
    except LayoutError as error:
        raise LayoutError(f"parameter {name}: {error}") from error
    return PlannedTensor(header, selection.target(header.type), copies, is_known)


def _whole_copies(
    name: str, staged: StagedLayouts, found: Mapping[TensorHeader, Sequence[int]], slices: SliceSet
) -> tuple[tuple[Copy, ...], TensorHeader]:
    """A tensor that the strategy doesn't know: any rank that has it should have all of it."""
    why = "every rank should hold it whole, for no strategy says how it is split; if it is a value of each rank's own, "
    header = _same_header(found, slices, f"{why}leave it out with --exclude {_pattern(name)}")
    layout = replicated(len(slices.files), len(header.shape))
    return (Copy(0, layout, tuple(_some(found))),), header


def _sharded_copies(
    name: str, staged: StagedLayouts, found: Mapping[TensorHeader, Sequence[int]], slices: SliceSet
) -> tuple[tuple[Copy, ...], TensorHeader]:
    """A tensor that the strategy knows: one copy in each pipeline stage that has it."""
    copies: list[Copy] = []
    whole: dict[TensorHeader, list[int]] = {}
    for stage, layouts in enumerate(staged.stages):
        local = found  # of a single stage are all ranks
        if len(staged.stages) > 1:
            local = _within_stage(found, stage * staged.ranks_per_stage, staged.ranks_per_stage)
        if name in layouts:
            copies.append(_stage_copy(name, stage * staged.ranks_per_stage, layouts[name], local, slices))
            header = _whole_header(layouts[name], stage * staged.ranks_per_stage, local, slices)
            for ranks in local.values():
                whole.setdefault(header, []).extend(ranks)
        elif local:
            raise LayoutError(
                f"ranks {_some(local)[:16]} hold it, but the strategy of their pipeline stage {stage} doesn't know it; "
                "give the strategies of the run that saved them"
            )
    return tuple(copies), _same_header(whole, slices, "its copies in several pipeline stages should be of one shape")


def _within_stage(found: Mapping[TensorHeader, Sequence[int]], first: int, count: int) -> dict[TensorHeader, list[int]]:
    local = {header: [rank for rank in ranks if first <= rank < first + count] for header, ranks in found.items()}
    return {header: ranks for header, ranks in local.items() if ranks}


def _stage_copy(
    name: str, first: int, layout: Layout, local: Mapping[TensorHeader, Sequence[int]], slices: SliceSet
) -> Copy:
    if sum(len(ranks) for ranks in local.values()) == layout.world_size:
        return Copy(first, layout, _consecutive(first, layout.world_size))
    holders = frozenset(_some(local))
    for group in layout.replica_groups():
        if not any(first + rank in holders for rank in group):
            replicas = [first + rank for rank in group]
            raise MissingShard(
                f"parameter {name}: expected a slice on rank {replicas[0]} ({slices.files[replicas[0]].path}), found "
                f"none there nor on any other of ranks {replicas[:16]} that should hold it; restore the file, or take "
                "another step"
            )
    for rank in range(first, first + layout.world_size):
        if rank not in holders and not _may_lack_slices(slices.files[rank], slices):
            raise MissingShard(
                f"parameter {name}: missing from {slices.files[rank].path} (rank {rank}), which doesn't say that "
                "redundant slices were left out (remove_redundancy); restore the file, or take another step"
            )
    return Copy(first, layout, tuple(sorted(holders)))


def _may_lack_slices(file: FileIndex, slices: SliceSet) -> bool:
    """Whether a file may leave out what another rank holds. A .ckpt doesn't say, nor a .safetensors without tensors."""
    if file.format == "ckpt" or file.removes_redundancy:
        return True
    return not file.schema.headers and any(other.removes_redundancy for other in slices.files)


def _whole_header(
    layout: Layout, first: int, local: Mapping[TensorHeader, Sequence[int]], slices: SliceSet
) -> TensorHeader:
    """The whole tensor that the slices `local` of one pipeline stage make."""
    if not layout.param_split_shape or len({header.type for header in local}) > 1:
        sliced = _same_header(local, slices, "the strategy gives all ranks slices of one shape")
    else:
        sliced = next(iter(local))
    full = layout.full_shape(*(header.shape for header in local))
    if layout.tensor_shape is not None and layout.tensor_shape != full:
        raise LayoutError(
            f"slices of shape {list(sliced.shape)} and {layout} make {list(full)}, but the strategy file says "
            f"{list(layout.tensor_shape)}; is this the strategy of the run that saved them, and were they saved with "
            "integrated_save=False?"
        )
    if layout.param_split_shape:
        _check_heights(layout, first, full, local, slices)
    elif layout.field or layout.indices_offset:
        layout.slice_shape(full)  # refuses what cannot be cut so: fields that don't divide the rows
    return TensorHeader(sliced.name, sliced.type, full)


def _check_heights(
    layout: Layout, first: int, full: tuple[int, ...], local: Mapping[TensorHeader, Sequence[int]], slices: SliceSet
) -> None:
    """Refuse slices that a cut by hand gives other shapes."""
    for header, ranks in local.items():
        for rank in ranks:
            expected = layout.slice_shape(full, rank - first)
            if header.shape != expected:
                raise LayoutError(
                    f"the strategy cuts dimension 0 by hand (param_split_shape {list(layout.param_split_shape[:8])}) "
                    f"and gives rank {rank} a slice of shape {list(expected)}, but {slices.files[rank].path} has "
                    f"{list(header.shape)}; give the strategy of the run that saved it"
                )


def _same_header(found: Mapping[TensorHeader, Sequence[int]], slices: SliceSet, why: str) -> TensorHeader:
    """The one header that all ranks agree on."""
    if len(found) != 1:
        kinds = "; ".join(
            f"{header.type.name} {list(header.shape)} on ranks {sorted(ranks)[:16]} ({slices.files[min(ranks)].path})"
            for header, ranks in found.items()
        )
        raise LayoutError(f"{why}; found {kinds or 'none'}")
    return next(iter(found))


def _check_not_slices(
    chosen: Iterable[TensorHeader],
    staged: StagedLayouts,
    headers: Mapping[str, TensorHeader],
    selection: Selection,
) -> None:
    """Refuse a state or copy that is sliced like its parameter while the strategy knows the parameter alone.

    Equal slices (the zeros of a state that was never updated) would otherwise pass for the whole.
    """
    alone = "" if selection.weights_only else "merge the weights alone (--weights-only), "
    for header in chosen:
        if header.name in staged.by_name:
            continue
        parameter = cut_like(header, staged.by_name, headers)
        if parameter is not None:
            raise LayoutError(
                f"parameter {header.name}: the strategy knows {parameter}, which is split, but not this state or copy "
                f"of it; {alone}leave it out by name (--exclude), or give a strategy file that was saved with "
                "only_trainable_params=False"
            )


def _some(found: Mapping[TensorHeader, Sequence[int]]) -> list[int]:
    return sorted(rank for ranks in found.values() for rank in ranks)


def why_replicas_differ(tensor: PlannedTensor) -> str:
    """What to say, and to do, where ranks differ in what they should hold equal."""
    if tensor.is_known:
        return "; the ranks are of different steps, swapped or damaged: take another step"
    return (
        " (no strategy says how it is split, so that all ranks should hold it equal); if it is a value of each rank's "
        "own, as a rank's number or a random state are, it is no part of the model: leave it out with "
        f"--exclude {_pattern(tensor.header.name)}; else the ranks are of different steps or swapped: take another step"
    )


def _pattern(name: str) -> str:
    """The pattern that matches `name` alone, as a shell takes it."""
    return shlex.quote(glob.escape(name))


@lru_cache(maxsize=256)
def _consecutive(first: int, count: int) -> tuple[int, ...]:
    """The same tuple for all tensors: a plan has thousands of tensors over thousands of ranks."""
    return tuple(range(first, first + count))
