"""Resharding: slices, or an integrated checkpoint, become slices for another strategy and number of ranks.

Every block of every whole tensor is put together as in a merge and then cut for the ranks that are to hold it, so
that each byte is read once and written once and memory stays a few blocks a worker. The new folder is staged under
another name and appears whole, proved, or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError, LayoutError, OutputError
from shardline.base.progress import Meter
from shardline.base.workers import default_workers, in_parallel
from shardline.checkpoint.formats.file_index import Format, TensorHeader
from shardline.checkpoint.formats.file_set import read_file_set
from shardline.checkpoint.formats.output_file import OutputFile, layout_output
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.formats.staging import StagedFile, reserved_file
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint, allow_open_files, open_all
from shardline.checkpoint.merging.execute import Assembler, BlockOfTensor, Elements, blocks_of
from shardline.checkpoint.merging.merge import make_folder
from shardline.checkpoint.merging.output_lock import exclusive
from shardline.checkpoint.merging.proof import Proven, prove_resharded
from shardline.checkpoint.merging.rank_identity import check_no_rank_is_anothers_copy
from shardline.checkpoint.merging.request import MergeRequest, prepare, read_strategies
from shardline.checkpoint.shards.absences import check_absences
from shardline.checkpoint.shards.finding import SliceSet
from shardline.checkpoint.shards.plan import Copy, Plan, PlannedTensor, held_slices, plan_merge
from shardline.checkpoint.shards.roles import parameter_of
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.checkpoint.shards.slice_digest import verified_digest
from shardline.checkpoint.strategy.layout import replicated
from shardline.checkpoint.strategy.strategy_file import StagedLayouts


@dataclass(frozen=True)
class ReshardRequest:
    """What to reshard into what: from `shards` with `strategies`, or from the `integrated` checkpoint (a file, an index
    of several or their folder); to `to_strategies`.

    `name` is what every rank's file is called, without suffix; by default as in the source.
    """

    to_strategies: tuple[Path, ...]
    output: Path
    shards: Path | None = None
    strategies: tuple[Path, ...] = ()
    integrated: Path | None = None
    step: str | None = None
    prefix: str | None = None
    name: str | None = None
    file_format: Format = "ckpt"
    selection: Selection = field(default_factory=Selection)
    allow_non_finite: bool = False
    workers: int = field(default_factory=default_workers)


@dataclass(frozen=True)
class Resharded:
    """The outcome: the new folder, its number of ranks, the digests of its files by rank, and what to tell the user."""

    output: Path
    world_size: int
    digests: tuple[str, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """What the ranks are to hold: every tensor with its new copies, and the layout of every rank's file."""

    tensors: Mapping[str, PlannedTensor]
    files: tuple[OutputFile, ...]
    strategy_digest: str
    notices: tuple[str, ...]


def reshard(request: ReshardRequest, meter: Meter | None = None) -> Resharded:
    """Write the slices that `request` asks for, prove them, and let the folder appear.

    Raises the errors of `shardline.base.errors.CheckpointError`; `OutputError` where the folder is there already.
    """
    plan = _plan(request)
    target = _target(request, plan)
    make_folder(request.output.parent)
    with exclusive(request.output, request.output.name), _staged_folder(request.output) as folder:
        return _Resharding(request, plan, target, folder, meter or Meter()).run()


def _plan(request: ReshardRequest) -> Plan:
    """The merge whose blocks are then cut anew."""
    if (request.shards is None) == (request.integrated is None):
        raise ConfigError("reshard from what? Give either --shards DIR with --strategy FILE, or --from FILE")
    if request.integrated is not None:
        slices = SliceSet(request.integrated.parent, read_file_set(request.integrated).files, "")
        return plan_merge(slices, None, request.selection, integrated=True)
    merge_request = MergeRequest(
        shards=request.shards or Path(),
        strategies=request.strategies,
        output=request.output / "whole.ckpt",
        step=request.step,
        prefix=request.prefix,
        selection=request.selection,
    )
    return prepare(merge_request).plan


def _target(request: ReshardRequest, plan: Plan) -> Target:
    layouts, digests = read_strategies(request.to_strategies)
    if layouts is None:
        raise ConfigError("reshard to what? Give --to-strategy FILE, one a pipeline stage")
    headers = {tensor.header.name: tensor.merged for tensor in plan.tensors}
    notices = check_absences(
        request.integrated or plan.slices.directory, headers, layouts, request.selection, "the same network"
    )
    unmatched = set(plan.unmatched).intersection(request.selection.unmatched(layouts.names))
    notices += tuple(f"{option} matches no tensor" for option in sorted(unmatched))
    tensors = {tensor.header.name: _with_new_copies(tensor, layouts, headers) for tensor in plan.tensors}
    name = request.name or _source_name(plan)
    files = []
    for stage in range(len(layouts.stages)):
        files += _stage_files(f"{name}.{request.file_format}", tensors.values(), stage, layouts, request.file_format)
    return Target(tensors, tuple(files), digests[0] if len(digests) == 1 else "", notices)


def _with_new_copies(
    tensor: PlannedTensor, layouts: StagedLayouts, headers: Mapping[str, TensorHeader]
) -> PlannedTensor:
    """The tensor as the new ranks hold it: sliced in the stages that know it, or whole everywhere."""
    name, shape, per_stage = tensor.header.name, tensor.header.shape, layouts.ranks_per_stage
    copies = tuple(
        Copy(stage * per_stage, known[name], tuple(range(stage * per_stage, (stage + 1) * per_stage)))
        for stage, known in enumerate(layouts.stages)
        if name in known
    )
    if not copies and (tensor.is_known or _must_be_cut(tensor, layouts, headers)):
        raise LayoutError(
            f"parameter {name}: the new strategy doesn't know it, so that nothing says how to cut it; give a strategy "
            "that does, or leave it out (--exclude, --weights-only)"
        )
    if not copies:
        everyone = tuple(range(layouts.world_size))
        copies = (Copy(0, replicated(layouts.world_size, len(shape)), everyone),)
    for copy in copies:
        _check_divides(name, copy, shape)
    return PlannedTensor(tensor.merged, tensor.target, copies, is_known=True)


def _must_be_cut(tensor: PlannedTensor, layouts: StagedLayouts, headers: Mapping[str, TensorHeader]) -> bool:
    """Whether it is a state or copy of a parameter that the new strategy splits: it would have to be split too."""
    parameter = parameter_of(tensor.header.name, layouts.by_name)
    if parameter is None or max(layouts.by_name[parameter].shards(), default=1) == 1:
        return False
    shape = tensor.header.shape
    return parameter in headers and len(shape) > 0 and shape == headers[parameter].shape


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
        raise LayoutError(f"pipeline stage {stage} of the new strategy holds none of the {len(tensors)} tensors")
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


def _source_name(plan: Plan) -> str:
    """The source's name where it says the step, or `checkpoint`."""
    stem = plan.slices.files[0].path.stem
    return stem if plan.slices.shard_set is not None or plan.slices.step else "checkpoint"


@contextmanager
def _staged_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` under another name; what earlier processes left of theirs is removed."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already, and not empty; choose a new folder, or remove it first")
    for abandoned in output.parent.glob(f".{output.name}.*.staged"):
        shutil.rmtree(abandoned)
    folder = atomic.staged_path(output)
    try:
        folder.mkdir()
        yield folder
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error}; make room or choose another place") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Resharding:
    """One resharding in progress."""

    def __init__(self, request: ReshardRequest, plan: Plan, target: Target, folder: Path, meter: Meter) -> None:
        self.request, self.plan, self.target, self.folder, self.meter = request, plan, target, folder, meter
        self.inputs: dict[int, str] = {}
        self.proven: dict[str, Proven] = {}

    def run(self) -> Resharded:
        with open_all(self.plan.slices.files) as files:
            self._write(files)
            self._prove(files)
            check_no_rank_is_anothers_copy(self.plan, self.inputs, files)
            for file in files:
                file.check_unchanged()
        digests = [file_digest(self._path(rank)) for rank in range(len(self.target.files))]
        self._record(digests)
        for folder in [*self.folder.iterdir(), self.folder]:
            if folder.is_dir():
                atomic.sync_directory(folder)
        self.folder.rename(self.request.output)
        atomic.sync_directory(self.request.output.parent)
        notices = (*self.plan.slices.notices, *self.plan.notices, *self.target.notices)
        return Resharded(self.request.output, len(digests), tuple(digests), notices)

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}" / self.target.files[rank].name

    def _write(self, files: Sequence[OpenCheckpoint]) -> None:
        assembler = Assembler(files, compare_replicas=False, allow_non_finite=self.request.allow_non_finite)
        allow_open_files(len(self.target.files))
        with ExitStack() as stack:
            staged = []
            for rank, layout in enumerate(self.target.files):
                self._path(rank).parent.mkdir()
                staged.append(stack.enter_context(reserved_file(layout, self._path(rank))))

            def write(block: BlockOfTensor) -> None:
                content = assembler.assemble(block).reshape(block.box.sizes)
                self._distribute(content, block, staged)
                self.meter.advance(content.nbytes, tensors=int(block.is_last))

            self.meter.begin("resharding", self.plan.bytes_out, len(self.plan.tensors))
            in_parallel(write, blocks_of(self.plan.tensors, self.request.workers), self.request.workers)
            in_parallel(StagedFile.flush, staged, self.request.workers)

    def _distribute(self, content: Elements, block: BlockOfTensor, staged: Sequence[StagedFile]) -> None:
        """Write every new slice's part of a block to all ranks that hold that slice."""
        name, shape = block.tensor.header.name, block.tensor.header.shape
        for copy in self.target.tensors[name].copies:
            held = held_slices(copy, shape)
            for piece in held.overlapping(block.box):
                part = block.box.intersection(held.box(piece))
                if part is None:
                    continue
                index: tuple[Any, ...] = (*part.within(block.box), ...)
                elements = np.ascontiguousarray(content[index]).reshape(-1)
                start = held.flat_start(piece, part) * elements.itemsize
                for rank in held.ranks(piece):
                    staged[rank].write(name, start, elements.view(np.uint8))

    def _prove(self, files: Sequence[OpenCheckpoint]) -> None:
        def digest_input(rank: int) -> None:
            self.inputs[rank] = verified_digest(files[rank], rank, self.plan.slices.shard_set)

        in_parallel(digest_input, range(len(files)), self.request.workers)
        self.meter.begin("proving", self.plan.bytes_out, len(self.plan.tensors))
        written = [index_checkpoint(self._path(rank)) for rank in range(len(self.target.files))]
        with open_all(written) as written_files:

            def prove_one(tensor: PlannedTensor) -> None:
                name = tensor.header.name
                self.proven[name] = prove_resharded(tensor, self.target.tensors[name], files, written_files)
                self.meter.advance(tensor.merged.size, tensors=1)

            in_parallel(prove_one, self.plan.tensors, self.request.workers)

    def _record(self, digests: Sequence[str]) -> None:
        """reshard.json, and where the source has a manifest, one for the new ranks."""
        slices = self.plan.slices
        record = {
            "inputs": {"step": slices.step, "digests": [self.inputs[rank] for rank in range(len(self.inputs))]},
            "ranks": len(digests),
            "digests": list(digests),
            "tensors": {
                name: {"layouts": [str(copy.layout) for copy in tensor.copies], "digest": self.proven[name].digest}
                for name, tensor in self.target.tensors.items()
            },
        }
        atomic.write_text(self.folder / "reshard.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        if slices.shard_set is not None:
            self._manifest(slices.shard_set, digests).write(self.folder)

    def _manifest(self, source: ShardSet, digests: Sequence[str]) -> ShardSet:
        files = tuple(
            SliceFile(rank, f"rank_{rank}/{self.target.files[rank].name}", self.target.files[rank].size, digest)
            for rank, digest in enumerate(digests)
        )
        return ShardSet(
            world_size=len(files),
            step=source.step,
            epoch=source.epoch,
            strategy_digest=self.target.strategy_digest,
            configuration_digest=source.configuration_digest,
            integrated=False,
            slices=files,
        )
