"""What a resharding is to write: which files, in which folders, and which new slices of every tensor they hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shardline.base.counts import counted
from shardline.base.errors import ConfigError, LayoutError
from shardline.checkpoint.formats.file_index import Format, TensorHeader
from shardline.checkpoint.formats.output_file import OutputFile, layout_output
from shardline.checkpoint.shards.plan import Copy, Plan, PlannedTensor
from shardline.checkpoint.shards.roles import would_be_cut
from shardline.checkpoint.strategy.layout import replicated
from shardline.checkpoint.strategy.strategy_file import StagedLayouts


@dataclass(frozen=True)
class TargetFile:
    """One file to write: its path within the new folder, and the rank whose it is."""

    path: str
    rank: int
    layout: OutputFile


@dataclass(frozen=True)
class Target:
    """What is to be written: every tensor with its new copies, whose holders are numbers of `files`.

    `world_size` ranks share the new slices. Where it `is_complete`, all tensors are there in full; otherwise the files
    are those of some ranks. `documents` are what else goes into the folder, by path: their content, in pieces.
    """

    tensors: Mapping[str, PlannedTensor]
    files: tuple[TargetFile, ...]
    world_size: int
    is_complete: bool
    documents: Mapping[str, Callable[[], Iterable[bytes]]]

    @property
    def ranks(self) -> list[int]:
        """The ranks whose files are written."""
        return sorted({file.rank for file in self.files})


def one_rank(plan: Plan) -> StagedLayouts:
    """The layouts of a single rank that holds everything whole."""
    return StagedLayouts(({tensor.merged.name: replicated(1, len(tensor.header.shape)) for tensor in plan.tensors},), 1)


def new_copies(plan: Plan, layouts: StagedLayouts) -> dict[str, PlannedTensor]:
    """Every tensor of `plan` as all ranks are to hold it under `layouts`.

    `LayoutError` where the layouts don't divide a tensor, or don't know one that has to be cut.
    """
    headers = {tensor.merged.name: tensor.merged for tensor in plan.tensors}
    return {tensor.merged.name: _with_new_copies(tensor, layouts, headers) for tensor in plan.tensors}


def rank_folders(
    tensors: Mapping[str, PlannedTensor],
    layouts: StagedLayouts,
    name: str,
    file_format: Format,
    ranks: Sequence[int] | None,
) -> Target:
    """One file a rank, `rank_N/NAME`, for all ranks or for `ranks` alone."""
    chosen = _chosen(ranks, layouts.world_size)
    per_stage = layouts.ranks_per_stage
    files: list[TargetFile] = []
    for stage in sorted({rank // per_stage for rank in chosen}):
        of_stage = _stage_files(f"{name}.{file_format}", tensors.values(), stage, layouts, file_format)
        for rank in (rank for rank in chosen if rank // per_stage == stage):
            layout = of_stage[rank - stage * per_stage]
            files.append(TargetFile(f"rank_{rank}/{layout.name}", rank, layout))
    numbers = {file.rank: number for number, file in enumerate(files)}
    held = {name: _held_by(tensor, numbers) for name, tensor in tensors.items()}
    held = {name: tensor for name, tensor in held.items() if tensor.copies}
    return Target(held, tuple(files), layouts.world_size, len(files) == layouts.world_size, {})


def _chosen(ranks: Sequence[int] | None, world_size: int) -> list[int]:
    if ranks is None:
        return list(range(world_size))
    beyond = [rank for rank in ranks if not 0 <= rank < world_size]
    if beyond or not ranks:
        raise ConfigError(
            f"--ranks: expected some of ranks 0 to {world_size - 1} of the new strategy, found "
            f"{sorted(beyond)[:16] or 'none'}"
        )
    return sorted(set(ranks))


def _held_by(tensor: PlannedTensor, numbers: Mapping[int, int]) -> PlannedTensor:
    """The tensor as the files with these numbers hold it, by rank; copies of which they hold nothing are left out."""
    copies = []
    for copy in tensor.copies:
        mine = [(numbers[rank], place) for rank, place in zip(copy.holders, copy.local_ranks(), strict=True)
                if rank in numbers]  # fmt: skip
        if mine:
            holders, places = zip(*mine, strict=True)
            copies.append(Copy(copy.first_rank, copy.layout, holders, places))
    return PlannedTensor(tensor.header, tensor.target, tuple(copies), tensor.is_known)


def _with_new_copies(
    tensor: PlannedTensor, layouts: StagedLayouts, headers: Mapping[str, TensorHeader]
) -> PlannedTensor:
    """The tensor as the new ranks hold it: sliced in the stages that know it, or whole everywhere."""
    name, shape, per_stage = tensor.merged.name, tensor.header.shape, layouts.ranks_per_stage
    copies = tuple(
        Copy(stage * per_stage, known[name], tuple(range(stage * per_stage, (stage + 1) * per_stage)))
        for stage, known in enumerate(layouts.stages)
        if name in known
    )
    if not copies and (tensor.is_known or would_be_cut(tensor.merged, layouts.by_name, headers)):
        raise LayoutError(
            f"parameter {name}: the new strategy doesn't know it, so that nothing says how to cut it; give a strategy "
            "that does, or leave it out (--exclude, --weights-only)"
        )
    if not copies:
        everyone = tuple(range(layouts.world_size))
        copies = (Copy(0, replicated(layouts.world_size, len(shape)), everyone),)
    for copy in copies:
        _check_divides(name, copy, shape)
    known = any(name in stage for stage in layouts.stages)
    return PlannedTensor(tensor.merged, tensor.target, copies, is_known=known)


def _check_divides(name: str, copy: Copy, shape: tuple[int, ...]) -> None:
    try:
        copy.layout.slice_shape(shape, rank=0)
    except LayoutError as error:
        raise LayoutError(f"parameter {name}: {error}") from error


def _stage_files(
    name: str, tensors: Collection[PlannedTensor], stage: int, layouts: StagedLayouts, file_format: Format
) -> list[OutputFile]:
    """The files of a stage's ranks: one layout for all of them, but where a cut by hand gives them different shapes."""
    first = stage * layouts.ranks_per_stage
    kept = [
        (tensor.merged, copy.layout)
        for tensor in tensors
        for copy in tensor.copies
        if copy.first_rank <= first < copy.first_rank + copy.layout.world_size
    ]
    if not kept:
        raise LayoutError(
            f"pipeline stage {stage} of the new strategy holds none of the {counted(len(tensors), 'tensor')}"
        )
    headers = [header._replace(shape=layout.slice_shape(header.shape, rank=0)) for header, layout in kept]
    by_hand = [place for place, (header, layout) in enumerate(kept) if layout.is_cut_by_hand(header.shape)]
    known: dict[tuple[tuple[int, ...], ...], OutputFile] = {}
    files = []
    for rank in range(layouts.ranks_per_stage):
        shapes = tuple(kept[place][1].slice_shape(kept[place][0].shape, rank) for place in by_hand)
        if shapes not in known:
            for place, shape in zip(by_hand, shapes, strict=True):
                headers[place] = headers[place]._replace(shape=shape)
            (known[shapes],) = layout_output(name, headers, file_format)
        files.append(known[shapes])
    return files
