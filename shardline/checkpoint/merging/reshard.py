"""Resharding: slices, or an integrated checkpoint, become slices for another strategy and number of ranks.

Every block of every whole tensor is put together as in a merge and then cut for the ranks that are to hold it, so
that each byte is read once and written once and memory stays a few blocks a worker. The new folder is staged under
another name and appears whole, proved, or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError
from shardline.base.progress import Meter
from shardline.base.recordable import check_recordable
from shardline.base.workers import default_workers, in_parallel
from shardline.checkpoint.formats.file_index import Format
from shardline.checkpoint.formats.file_set import read_file_set
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.formats.staging import StagedFile, reserved_file
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint, allow_open_files, open_all
from shardline.checkpoint.merging.checkpoint2_target import checkpoint2_folder, iteration_of
from shardline.checkpoint.merging.execute import Assembler, BlockOfTensor, Elements, blocks_of
from shardline.checkpoint.merging.merge import make_folder
from shardline.checkpoint.merging.output_lock import exclusive
from shardline.checkpoint.merging.proof import Proven, prove_resharded
from shardline.checkpoint.merging.rank_identity import check_no_rank_is_anothers_copy
from shardline.checkpoint.merging.request import MergeRequest, plan_of, read_strategies
from shardline.checkpoint.merging.reshard_target import (
    Target,
    new_copies,
    one_rank,
    rank_folders,
)
from shardline.checkpoint.merging.staged_folder import publish_folder, staged_folder
from shardline.checkpoint.shards.absences import check_absences
from shardline.checkpoint.shards.finding import SliceSet
from shardline.checkpoint.shards.held_slices import held_slices
from shardline.checkpoint.shards.plan import Plan, PlannedTensor, plan_merge
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.checkpoint.shards.slice_digest import verified_digest
from shardline.checkpoint.strategy.strategy_file import StagedLayouts

TargetFormat = Format | Literal["checkpoint2"]


@dataclass(frozen=True)
class ReshardRequest:
    """What to reshard into what: from `shards` with `strategies` (none for Checkpoint 2.0), or from the `integrated`
    checkpoint (a file, an index of several or their folder); to `to_strategies`, or `unsharded` to a single rank.

    `name` is what every rank's file is called, without suffix, by default as in the source; of Checkpoint 2.0 the
    prefix of the files' names, by default none. `iteration` is its number, where the source doesn't say it. Of `ranks`,
    where given, only these are written. A request that `replaces` exchanges a folder that is there for the new one.
    """

    to_strategies: tuple[Path, ...]
    output: Path
    shards: Path | None = None
    strategies: tuple[Path, ...] = ()
    integrated: Path | None = None
    step: str | None = None
    prefix: str | None = None
    name: str | None = None
    file_format: TargetFormat = "ckpt"
    selection: Selection = field(default_factory=Selection)
    allow_non_finite: bool = False
    workers: int = field(default_factory=default_workers)
    unsharded: bool = False
    ranks: tuple[int, ...] | None = None
    iteration: int | None = None
    replaces: bool = False


@dataclass(frozen=True)
class Resharded:
    """The outcome: the new folder, its number of ranks, the digests of its files, and what the user should know.

    `digests` are in the order of the ranks; `notices` are as those of a merge; `sources` are the files that were read.
    """

    output: Path
    world_size: int
    digests: tuple[str, ...]
    notices: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Prepared:
    """A request whose inputs were understood."""

    request: ReshardRequest
    plan: Plan
    target: Target
    strategies: tuple[str, ...]
    to_strategies: tuple[str, ...]
    notices: tuple[str, ...]


def reshard(request: ReshardRequest, meter: Meter | None = None) -> Resharded:
    """Write the slices that `request` asks for, prove them, and let the folder appear.

    Raises the errors of `shardline.base.errors.CheckpointError`; `OutputError` where the folder is there already.
    """
    prepared = _prepare(request)
    make_folder(request.output.parent)
    with (
        exclusive(request.output),
        staged_folder(request.output, request.replaces) as folder,
    ):
        return _Resharding(prepared, folder, meter or Meter()).run()


def _prepare(request: ReshardRequest) -> _Prepared:
    _check_options(request)
    plan, strategies = _plan(request)
    layouts, to_strategies = read_strategies(request.to_strategies)
    notices = (*plan.slices.notices, *plan.notices, *(_check_names(request, plan, layouts) if layouts else ()))
    target = _target(request, plan, layouts or one_rank(plan))
    return _Prepared(request, plan, target, strategies, to_strategies, notices)


def _check_options(request: ReshardRequest) -> None:
    if (request.shards is None) == (request.integrated is None):
        raise ConfigError(
            "reshard from what? Give --shards DIR, with --strategy FILE unless it is Checkpoint 2.0, or --from FILE"
        )
    of_shards = (request.strategies, request.step is not None, request.prefix is not None)
    if request.integrated is not None and any(of_shards):
        raise ConfigError("--strategy, --step and --prefix are of --shards, not of --from: leave them out")
    if request.unsharded == bool(request.to_strategies):
        raise ConfigError(
            "reshard to what? Give either --to-strategy FILE, one a pipeline stage, or --unsharded for a single rank "
            "that holds everything (for one file rather than a rank's folder: shardline merge)"
        )
    if request.file_format == "checkpoint2" and request.ranks is not None:
        raise ConfigError("--ranks: Checkpoint 2.0 is one checkpoint of all ranks; leave --ranks or --format out")
    if request.file_format != "checkpoint2" and request.iteration is not None:
        raise ConfigError("--iteration is of --format checkpoint2; leave it out")


def _plan(request: ReshardRequest) -> tuple[Plan, tuple[str, ...]]:
    """The merge whose blocks are then cut anew, and the digests of its strategy files."""
    if request.integrated is not None:
        slices = SliceSet(request.integrated.parent, read_file_set(request.integrated).files, "")
        return plan_merge(slices, None, request.selection, integrated=True), ()
    return plan_of(
        MergeRequest(
            shards=request.shards or Path(),
            strategies=request.strategies,
            output=request.output / "whole.ckpt",
            step=request.step,
            prefix=request.prefix,
            selection=request.selection,
        )
    )


def _check_names(request: ReshardRequest, plan: Plan, layouts: StagedLayouts) -> tuple[str, ...]:
    """What to say of parameters that the new strategy knows and the source lacks, and of patterns without effect."""
    headers = {tensor.merged.name: tensor.merged for tensor in plan.tensors}
    source = request.integrated or plan.slices.directory
    absences = check_absences(source, headers, layouts, request.selection, "the same network")
    unmatched = set(plan.unmatched).intersection(request.selection.unmatched(layouts.names))
    return (*absences, *(f"{option} matches no tensor" for option in sorted(unmatched)))


def _target(request: ReshardRequest, plan: Plan, layouts: StagedLayouts) -> Target:
    tensors = new_copies(plan, layouts)
    if request.file_format == "checkpoint2":
        iteration = iteration_of(plan, request.iteration)
        return checkpoint2_folder(plan, tensors, layouts, request.name or "", iteration)
    name = request.name or _source_name(plan)
    check_recordable("the name of the new files", name)
    return rank_folders(tensors, layouts, name, request.file_format, request.ranks)


def _source_name(plan: Plan) -> str:
    """The source's name where it says the step, or `checkpoint`."""
    slices = plan.slices
    common = slices.facts.get("common") or {}
    if common.get("epoch_num") is not None and common.get("step_num") is not None:
        return f"checkpoint-{common['epoch_num']}_{common['step_num']}"
    is_of_ranks = slices.files[0].rank is None and (slices.shard_set is not None or slices.step)
    return slices.files[0].path.stem if is_of_ranks else "checkpoint"


class _Resharding:
    """One resharding in progress."""

    def __init__(self, prepared: _Prepared, folder: Path, meter: Meter) -> None:
        self.prepared, self.folder, self.meter = prepared, folder, meter
        self.request, self.plan, self.target = prepared.request, prepared.plan, prepared.target
        self.sources = {tensor.merged.name: tensor.header.name for tensor in self.plan.tensors}
        self.tensors = [tensor for tensor in self.plan.tensors if tensor.merged.name in self.target.tensors]
        self.inputs: dict[int, str] = {}
        self.proven: dict[str, Proven] = {}

    def run(self) -> Resharded:
        with open_all(self.plan.slices.files) as files:
            self._write(files)
            self._prove(files)
            check_no_rank_is_anothers_copy(self.plan, self.inputs, files)
            for file in files:
                file.check_unchanged()
        digests = self._output_digests()
        for path, content in {**self.target.documents, **self._records(digests)}.items():
            _write_document(self.folder / path, content())
        publish_folder(self.folder, self.request.output)
        sources = self.plan.slices.paths()
        return Resharded(self.request.output, self.target.world_size, tuple(digests), self.prepared.notices, sources)

    def _path(self, number: int) -> Path:
        return self.folder / self.target.files[number].path

    def _write(self, files: Sequence[OpenCheckpoint]) -> None:
        assembler = Assembler(files, compare_replicas=False, allow_non_finite=self.request.allow_non_finite)
        allow_open_files(len(self.target.files))
        with ExitStack() as stack:
            staged = []
            for number, file in enumerate(self.target.files):
                self._path(number).parent.mkdir(exist_ok=True)
                staged.append(stack.enter_context(reserved_file(file.layout, self._path(number))))

            def write(block: BlockOfTensor) -> None:
                content = assembler.assemble(block).reshape(block.box.sizes)
                self._distribute(content, block, staged)
                self.meter.advance(content.nbytes, tensors=int(block.is_last))

            self._begin("resharding")
            in_parallel(write, self._blocks(), self.request.workers)
            in_parallel(StagedFile.flush, staged, self.request.workers)

    def _begin(self, phase: str) -> None:
        self.meter.begin(phase, sum(tensor.merged.size for tensor in self.tensors), len(self.tensors))

    def _blocks(self) -> Iterator[BlockOfTensor]:
        """The blocks of all tensors; where only some ranks are written, those that they hold something of."""
        blocks = blocks_of(self.tensors, self.request.workers)
        return blocks if self.target.is_complete else filter(self._is_held, blocks)

    def _is_held(self, block: BlockOfTensor) -> bool:
        for copy in self.target.tensors[block.tensor.merged.name].copies:
            held = held_slices(copy, block.tensor.header.shape)
            if any(held.ranks(piece) for piece in held.overlapping(block.box)):
                return True
        return False

    def _distribute(self, content: Elements, block: BlockOfTensor, staged: Sequence[StagedFile]) -> None:
        """Write every new slice's part of a block to all files that hold that slice."""
        name, shape = block.tensor.merged.name, block.tensor.header.shape
        for copy in self.target.tensors[name].copies:
            held = held_slices(copy, shape)
            for piece in held.overlapping(block.box):
                part = block.box.intersection(held.box(piece))
                if part is None or not held.ranks(piece):
                    continue
                index: tuple[Any, ...] = (*part.within(block.box), ...)
                elements = np.ascontiguousarray(content[index]).reshape(-1)
                start = held.flat_start(piece, part) * elements.itemsize
                for number in held.ranks(piece):
                    staged[number].write(name, start, elements.view(np.uint8))

    def _prove(self, files: Sequence[OpenCheckpoint]) -> None:
        def digest_input(number: int) -> None:
            self.inputs[number] = verified_digest(files[number], number, self.plan.slices.shard_set)

        in_parallel(digest_input, range(len(files)), self.request.workers)
        self._begin("proving")
        written = [index_checkpoint(self._path(number)) for number in range(len(self.target.files))]
        with open_all(written) as written_files:

            def prove_one(tensor: PlannedTensor) -> None:
                name = tensor.merged.name
                self.proven[name] = prove_resharded(tensor, self.target.tensors[name], files, written_files)
                self.meter.advance(tensor.merged.size, tensors=1)

            in_parallel(prove_one, self.tensors, self.request.workers)

    def _output_digests(self) -> list[str]:
        digests: dict[int, str] = {}

        def digest(number: int) -> None:
            digests[number] = file_digest(self._path(number))

        in_parallel(digest, range(len(self.target.files)), self.request.workers)
        return [digests[number] for number in range(len(digests))]

    def _records(self, digests: Sequence[str]) -> Mapping[str, Any]:
        """reshard.json, and where the source has a manifest and every rank is written, one for the new ranks."""
        record = json.dumps(self._record(digests), indent=1, ensure_ascii=False) + "\n"
        documents = {"reshard.json": partial(_one_piece, record)}
        source = self.plan.slices.shard_set
        if source is not None and self.target.is_complete and self.request.file_format != "checkpoint2":
            manifest = self._manifest(source, digests)
            documents[manifest.path(Path(), manifest.step).name] = partial(_one_piece, manifest.encode())
        return documents

    def _record(self, digests: Sequence[str]) -> dict[str, Any]:
        slices, target = self.plan.slices, self.target
        return {
            "inputs": {
                "step": slices.step,
                "strategies": list(self.prepared.strategies),
                **slices.facts,
                "files": list(slices.paths()),
                "digests": [self.inputs[number] for number in range(len(self.inputs))],
            },
            "to_strategies": list(self.prepared.to_strategies),
            "format": self.request.file_format,
            "world_size": target.world_size,
            "ranks": "all" if target.is_complete else target.ranks,
            "files": [
                {"rank": file.rank, "path": file.path, "size": file.layout.size, "digest": digest}
                for file, digest in zip(target.files, digests, strict=True)
            ],
            "tensors": {name: self._tensor_record(name, tensor) for name, tensor in target.tensors.items()},
        }

    def _tensor_record(self, name: str, tensor: PlannedTensor) -> dict[str, Any]:
        proven = self.proven[name]
        record: dict[str, Any] = {"layouts": [str(copy.layout) for copy in tensor.copies]}
        if self.sources[name] != name:
            record["source_name"] = self.sources[name]
        if proven.digest:
            record["digest"] = proven.digest
        return {**record, "slices_compared": proven.slices, "bytes_compared": proven.bytes_compared}

    def _manifest(self, source: ShardSet, digests: Sequence[str]) -> ShardSet:
        files = tuple(
            SliceFile(file.rank, file.path, file.layout.size, digest)
            for file, digest in zip(self.target.files, digests, strict=True)
        )
        strategies = self.prepared.to_strategies
        return ShardSet(
            world_size=len(files),
            step=source.step,
            epoch=source.epoch,
            strategy_digest=strategies[0] if len(strategies) == 1 else "",
            configuration_digest=source.configuration_digest,
            integrated=False,
            slices=files,
        )


def _write_document(path: Path, content: Iterable[bytes]) -> None:
    """A new file with `content`, on disk."""
    with path.open("xb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())


def _one_piece(text: str) -> Iterable[bytes]:
    yield text.encode()
