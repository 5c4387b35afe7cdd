"""Checkpoint 2.0 as what a resharding writes: the new slices of every tensor, each once, and what describes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from shardline.base.errors import ConfigError, LayoutError, UnsupportedFormat
from shardline.checkpoint.formats.checkpoint2 import COMMON, METADATA, StoredTensor
from shardline.checkpoint.formats.checkpoint2_layout import RankedLayout, ranked_layout_of
from shardline.checkpoint.formats.checkpoint2_storage import StoredSlice, file_name_of, kind_of
from shardline.checkpoint.formats.checkpoint2_writing import (
    Shard,
    encode_common,
    encode_metadata,
    savers,
    weight_of,
)
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.output_file import layout_output
from shardline.checkpoint.merging.reshard_target import Target, TargetFile
from shardline.checkpoint.shards.checkpoint2 import TRACKER, iteration_folder
from shardline.checkpoint.shards.plan import Copy, Plan, PlannedTensor
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.training_record import recorded_parameters
from shardline.checkpoint.strategy.layout import replicated
from shardline.checkpoint.strategy.strategy_file import StagedLayouts

_KINDS = ("model", "opt")


@dataclass(frozen=True)
class _Shared:
    """A tensor as Checkpoint 2.0 describes it, and which ranks hold which of its slices."""

    stored: StoredTensor
    planned: PlannedTensor
    holders: Mapping[int, tuple[int, ...]]


def checkpoint2_folder(
    plan: Plan, tensors: Mapping[str, PlannedTensor], layouts: StagedLayouts, prefix: str, iteration: int
) -> Target:
    """One iteration of Checkpoint 2.0, with the hint to it: every slice saved once, weights and states apart.

    `LayoutError` where the format cannot say how a tensor is cut, `UnsupportedFormat` where it has no name for a type.
    """
    for tensor in tensors.values():
        if not tensor.target.in_ckpt:
            raise UnsupportedFormat(
                f"{tensor.header.name!r} is of the type {tensor.target.name}, which MindSpore and Checkpoint 2.0 don't "
                "have; exclude it, or write .safetensors"
            )
    shared = {name: _shared(tensor) for name, tensor in tensors.items()}
    folder = iteration_folder(iteration)
    weights = weights_of(plan, list(tensors))
    files: list[TargetFile] = []
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    storage: list[tuple[Shard, Sequence[StoredSlice]]] = []
    for kind in _KINDS:
        mine = [one for name, one in shared.items() if (name in weights) == (kind == "model")]
        placed = savers(_shards(mine))
        for number, (rank, shards) in enumerate(placed.items()):
            file_name = file_name_of(prefix, kind, number, len(placed))
            headers = [_slice_header(shared[shard.tensor]) for shard in shards]
            (layout,) = layout_output(file_name, headers, "safetensors")
            for shard in shards:
                places[shard.tensor].append((len(files), shard.number))
                storage.append((shard, [StoredSlice(file_name, rank, shard.holders)]))
            files.append(TargetFile(f"{folder}/{file_name}", rank, layout))
    described = [shared[name].stored for name in _in_order_of_ranks(tensors, layouts)]
    return Target(
        {name: _planned(one, places[name]) for name, one in shared.items()},
        tuple(files),
        layouts.world_size,
        is_complete=True,
        documents={
            f"{folder}/{METADATA}": partial(encode_metadata, described, storage),
            f"{folder}/{COMMON}": partial(_pieces, encode_common(_known_of_training(plan, iteration))),
            TRACKER: partial(_pieces, str(iteration).encode()),
        },
    )


def iteration_of(plan: Plan, given: int | None) -> int:
    """The iteration that the slices of `plan` are of, or where they don't say it the one `given`.

    `ConfigError` where nothing says it, or where the two contradict each other.
    """
    known = _iteration_known(plan)
    if known is not None and given not in (None, known):
        raise ConfigError(f"--iteration {given}: {plan.slices.directory} says that it is of step {known}; leave it out")
    if known is not None or given is not None:
        return known if known is not None else given or 0
    epoch, _, step = plan.slices.step.partition("_")
    raise ConfigError(
        f"which iteration is it? The source says {f'epoch {epoch}, step {step} of it' if epoch else 'nothing'}; give "
        "the number of steps of the training as --iteration N"
    )


def _iteration_known(plan: Plan) -> int | None:
    if plan.slices.shard_set is not None:
        return plan.slices.shard_set.step
    if plan.slices.step.isdecimal():
        return int(plan.slices.step)
    epoch, _, step = plan.slices.step.partition("_")
    # The step within the first epoch is that of the training.
    return int(step) if epoch == "1" and step.isdecimal() else None


def weights_of(plan: Plan, names: Sequence[str]) -> set[str]:
    """Those of `names` that are weights: by the kinds of the source's files, or as --weights-only would keep them."""
    files = plan.slices.files
    kinds = {number: kind_of(file.path.name) for number, file in enumerate(files) if file.rank is not None}
    if kinds:
        held = {tensor.merged.name: {kinds[holder] for holder in tensor.copies[0].holders} for tensor in plan.tensors}
        return {name for name in names if held[name] != {"opt"}}
    headers = {header.name: header for file in reversed(files) for header in file.schema.headers}
    recorded = recorded_parameters(plan.slices)
    weights = frozenset(Selection(weights_only=True).choose(headers, plan.layouts.by_name, recorded).names)
    renamed = {tensor.merged.name for tensor in plan.tensors if tensor.header.name in weights}
    return renamed.intersection(names)


def _shared(tensor: PlannedTensor) -> _Shared:
    """Without a layout where every rank has the tensor whole and no strategy says so, and where there is one rank."""
    header = tensor.header
    if not tensor.is_known or not header.shape or all(copy.layout.world_size == 1 for copy in tensor.copies):
        stored = StoredTensor(header.name, tensor.target, header.shape, (1,) * len(header.shape), None)
        everyone = sorted(rank for copy in tensor.copies for rank in copy.holders)
        return _Shared(stored, tensor, {0: tuple(everyone)})
    ranked = [_ranked(tensor, copy) for copy in tensor.copies]
    first = ranked[0]
    for other in ranked[1:]:
        if other.numbers != first.numbers or other.layout.shards() != first.layout.shards():
            raise LayoutError(
                f"parameter {header.name}: pipeline stages share it, but cut it as {first.layout} and as "
                f"{other.layout}; Checkpoint 2.0 has one layout a parameter: give a --to-strategy that cuts it alike"
            )
    holders: dict[int, list[int]] = defaultdict(list)
    for each in ranked:
        for rank, number in zip(each.ranks, each.numbers, strict=True):
            holders[number].append(rank)
    stored = StoredTensor(header.name, tensor.target, header.shape, first.layout.shards(), first)
    return _Shared(stored, tensor, {number: tuple(ranks) for number, ranks in holders.items()})


def _ranked(tensor: PlannedTensor, copy: Copy) -> RankedLayout:
    try:
        return ranked_layout_of(copy.layout, copy.first_rank, tensor.header.shape)
    except LayoutError as error:
        raise LayoutError(f"parameter {tensor.header.name}: {error}") from error


def _shards(shared: Iterable[_Shared]) -> Iterable[tuple[Shard, int]]:
    for one in shared:
        weight = weight_of(one.stored)
        for number, holders in one.holders.items():
            yield Shard(one.stored.name, number, holders), weight


def _slice_header(one: _Shared) -> TensorHeader:
    return TensorHeader(one.stored.name, one.planned.target, one.stored.slice_shape)


def _planned(one: _Shared, files: Sequence[tuple[int, int]]) -> PlannedTensor:
    """The tensor as `files`, each with the number of the slice that it has, hold it."""
    ranked = one.stored.layout
    layout = replicated(1, len(one.stored.shape)) if ranked is None else ranked.layout
    first = {0: 0} if ranked is None else ranked.first_place_of_slice
    holders = tuple(file for file, _ in files)
    places = tuple(first[number] for _, number in files)
    planned = one.planned
    return PlannedTensor(planned.merged, planned.target, (Copy(0, layout, holders, places),), planned.is_known)


def _in_order_of_ranks(tensors: Mapping[str, PlannedTensor], layouts: StagedLayouts) -> Iterable[str]:
    """As MindFormers describes them: what rank 0 holds, then what else rank 1 does, and so on."""
    firsts = {name: min(copy.first_rank for copy in tensor.copies) for name, tensor in tensors.items()}
    return sorted(tensors, key=firsts.__getitem__)


def _known_of_training(plan: Plan, iteration: int) -> dict[str, Any]:
    common = plan.slices.facts.get("common")
    if common:
        return dict(common)
    shard_set = plan.slices.shard_set
    epoch, _, _ = plan.slices.step.partition("_")
    known = shard_set.epoch if shard_set is not None else int(epoch) if "_" in plan.slices.step else None
    return {"epoch_num": known, "step_num": iteration, "global_step": iteration}


def _pieces(content: bytes) -> Iterable[bytes]:
    yield content
