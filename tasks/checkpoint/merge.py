"""Merging: the slices of one step become one integrated checkpoint, proved and recorded, or nothing changes.

plan (headers only) → write (streamed into preallocated, staged files) → prove (read again, compared with every
slice) → publish (renamed, merge.json last)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks import atomic
from tasks.checkpoint.blocks import whole
from tasks.checkpoint.digests import verified_digest
from tasks.checkpoint.execute import Assembler, Task, tasks_of
from tasks.checkpoint.output_lock import exclusive
from tasks.checkpoint.plan import PlannedTensor
from tasks.checkpoint.progress import Meter
from tasks.checkpoint.proof import Proven, prove
from tasks.checkpoint.publish import check_record_is_ours, main_digest, publish
from tasks.checkpoint.rank_identity import check_no_rank_is_anothers_copy, indistinguishable_ranks
from tasks.checkpoint.record import build_record
from tasks.checkpoint.request import MergeRequest, Prepared, prepare
from tasks.checkpoint.shard_set import file_digest
from tasks.checkpoint.staging import StagedFile, staged_file
from tasks.checkpoint.tensor_io import OpenCheckpoint, open_all
from tasks.checkpoint.unchanged import recorded_merge
from tasks.checkpoint.workers import in_parallel
from tasks.errors import OutputError


@dataclass(frozen=True)
class Merged:
    """The outcome. `digest` is of the output file, or of the index where there are several."""

    output: Path
    digest: str
    record: Mapping[str, Any]
    notices: tuple[str, ...]
    was_up_to_date: bool


def merge(request: MergeRequest, meter: Meter | None = None) -> Merged:
    """Merge as `request` says, prove it and publish it; do nothing where an equal merge is already there.

    `meter` follows the bytes that are written and proved. Raises the errors of `tasks.errors.CheckpointError`;
    whatever happens, what was at the output before stays as it was until the whole of the new one is ready.
    """
    prepared = prepare(request)
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(request.output):
        check_record_is_ours(request)
        record = recorded_merge(prepared)
        if record is not None:
            return Merged(request.output, main_digest(record), record, prepared.slices.notices, was_up_to_date=True)
        record = _Merge(prepared, meter or Meter()).run()
    notices = (*prepared.slices.notices, *_doubts(prepared))
    return Merged(request.output, main_digest(record), record, notices, was_up_to_date=False)


def _doubts(prepared: Prepared) -> Iterator[str]:
    """What no check could tell."""
    for ranks in indistinguishable_ranks(prepared.plan):
        yield (
            f"ranks {ranks[:16]} hold nothing in common with another rank and there is no manifest: if their folders "
            "were swapped, nothing can tell"
        )


class _Merge:
    """One merge in progress."""

    def __init__(self, prepared: Prepared, meter: Meter) -> None:
        self.prepared, self.request, self.meter = prepared, prepared.request, meter
        self.input_digests: dict[int, str] = {}
        self.output_digests: dict[Path, str] = {}
        self.proven: dict[str, Proven] = {}

    def run(self) -> dict[str, Any]:
        directory = self.request.output.parent
        with ExitStack() as stack:
            files = stack.enter_context(open_all(self.prepared.slices.files))
            for layout in self.prepared.files:
                atomic.remove_abandoned(directory / layout.name)
            staged = [
                stack.enter_context(staged_file(layout, directory / layout.name)) for layout in self.prepared.files
            ]
            self._write(files, staged)
            with _flushing(staged):
                self._prove(files, staged)
            check_no_rank_is_anothers_copy(self.prepared.plan, self.input_digests, files)
            for file in files:
                file.check_unchanged()
            record = self._record(staged)
            publish(record, staged, self.request)
            return record

    def _write(self, files: Sequence[OpenCheckpoint], staged: Sequence[StagedFile]) -> None:
        home = {name: file for file in staged for name in file.layout.extents}
        # The proof compares every replica; without it they are compared here.
        assembler = Assembler(files, not self.request.proof, self.request.allow_non_finite)

        def write(task: Task) -> None:
            header = task.tensor.merged
            content = assembler.assemble(task).view(np.uint8)
            start = task.block.flat_start(whole(header.shape)) * header.type.itemsize
            home[header.name].write(header.name, start, content)
            self.meter.advance(content.nbytes, tensors=int(task.is_last))

        self._begin("merging")
        in_parallel(write, tasks_of(self.prepared.plan.tensors), self.request.workers)
        for file in staged:
            file.finish()

    def _prove(self, files: Sequence[OpenCheckpoint], staged: Sequence[StagedFile]) -> None:
        home = {name: file for file in staged for name in file.layout.extents}

        def prove_tensor(tensor: PlannedTensor) -> None:
            name = tensor.header.name
            self.proven[name] = prove(tensor, home[name], home[name].layout.extents[name], files)
            self.meter.advance(tensor.merged.size, tensors=1)

        def digest_input(rank: int) -> None:
            self.input_digests[rank] = verified_digest(files[rank], rank, self.prepared.slices.shard_set)

        def digest_output(file: StagedFile) -> None:
            self.output_digests[file.path] = file_digest(file.path)

        # A file that isn't the manifest's is the better explanation of a difference: digests come first.
        in_parallel(digest_input, range(len(files)), self.request.workers)
        self._begin("proving")
        work = [partial(digest_output, file) for file in staged]
        if self.request.proof:
            work += [partial(prove_tensor, tensor) for tensor in self.prepared.plan.tensors]
        in_parallel(lambda step: step(), work, self.request.workers)

    def _begin(self, phase: str) -> None:
        self.meter.begin(phase, self.prepared.plan.bytes_out, len(self.prepared.plan.tensors))

    def _record(self, staged: Sequence[StagedFile]) -> dict[str, Any]:
        inputs = self.prepared.inputs([self.input_digests[rank] for rank in range(len(self.input_digests))])
        digests = [self.output_digests[file.path] for file in staged]
        return build_record(self.prepared, inputs, digests, self.proven)


@contextmanager
def _flushing(staged: Sequence[StagedFile]) -> Iterator[None]:
    """Flush to disk while the block runs: the proof reads from memory what the disk is still writing."""
    failures: list[OutputError] = []

    def flush() -> None:
        try:
            for file in staged:
                file.flush()
        except OutputError as error:
            failures.append(error)

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]
