"""Merging: the slices of one step become one integrated checkpoint, proved and recorded, or nothing changes.

plan (headers only) → write (streamed into preallocated, staged files) → prove (read again, compared with every
slice) → publish (the files and their record take their names as one)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.counts import counted, of_count
from shardline.base.errors import OutputError
from shardline.base.progress import Meter
from shardline.base.workers import meanwhile
from shardline.checkpoint.formats.output_file import index_path
from shardline.checkpoint.formats.staging import StagedFile, staged_file
from shardline.checkpoint.formats.tensor_io import open_all
from shardline.checkpoint.merging.name_map import link_name_map
from shardline.checkpoint.merging.output_lock import exclusive
from shardline.checkpoint.merging.publish import (
    check_places,
    main_digest,
    publish,
    remove_abandoned_files,
    remove_other_outputs,
    settle,
)
from shardline.checkpoint.merging.rank_identity import indistinguishable_ranks
from shardline.checkpoint.merging.request import MergeRequest, Prepared, prepare
from shardline.checkpoint.merging.unchanged import recorded_merge
from shardline.checkpoint.merging.work import MergeWork

_FLUSH_SECONDS = 0.1


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

    `meter` follows the bytes that are written and proved. Raises the errors of `shardline.base.errors.CheckpointError`;
    whatever happens, what was at the output before stays as it was until the whole of the new one is ready.
    """
    prepared = prepare(request)
    make_folder(request.output.parent)
    with exclusive(request.output):
        check_places(request)
        settle(request.output, request.record_path)
        remove_abandoned_files(request.output)
        recorded = recorded_merge(prepared)
        record = _merge(prepared, meter or Meter()) if recorded is None else recorded
        remove_other_outputs(request)
        notices = (*notices_of(prepared), *link_name_map(index_path(request.output)))
    return Merged(request.output, main_digest(record), record, notices, recorded is not None)


def notices_of(prepared: Prepared) -> tuple[str, ...]:
    """What the user should know: what was passed over, and what no check could tell."""
    plan = prepared.plan
    unmatched = (f"{option} matches no tensor" for option in plan.unmatched)
    doubts = _doubts(indistinguishable_ranks(plan))
    return (*prepared.slices.notices, *plan.notices, *unmatched, *doubts, *_absences(prepared))


def _doubts(groups: Sequence[Sequence[int | str]]) -> Iterator[str]:
    """What no check could tell apart: ranks' folders, or files that say by their names whose they are."""
    for ranks in groups:
        if isinstance(ranks[0], int):
            yield (
                f"ranks {ranks[:16]} hold nothing in common with another rank and there is no manifest: if their "
                "folders were swapped, nothing can tell"
            )
    names = [name for group in groups for name in group if isinstance(name, str)]
    if names:
        yield (
            f"{counted(len(names), 'file')}, such as {names[0]}, {of_count(len(names), 'has', 'have')} no replica and "
            f"no digest beside {of_count(len(names), 'it', 'them')}: if the names of two were swapped, nothing can tell"
        )


def _absences(prepared: Prepared) -> Iterator[str]:
    """A .ckpt doesn't say whether redundant slices were left out of it on purpose."""
    copies = ((tensor, copy) for tensor in prepared.plan.tensors if tensor.is_known for copy in tensor.copies)
    lacking = [tensor.header.name for tensor, copy in copies if len(copy.holders) < copy.layout.world_size]
    if lacking and any(file.format == "ckpt" for file in prepared.slices.files):
        yield (
            f"{counted(len(lacking), 'tensor')}, such as {lacking[0]}, {of_count(len(lacking), 'is', 'are')} missing "
            "on some ranks; the slices were taken from their replicas on others"
        )


def make_folder(folder: Path) -> None:
    """The output's folder; `OutputError` where it cannot be made."""
    try:
        atomic.make_directory(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another output") from error


def _merge(prepared: Prepared, meter: Meter) -> dict[str, Any]:
    directory, tensors = prepared.request.output.parent, prepared.plan.tensors
    with ExitStack() as stack:
        files = stack.enter_context(open_all(prepared.slices.files))
        # The proof reads the output again, from the page cache; without it, nobody does.
        uncached = not prepared.request.proof
        staged = [
            stack.enter_context(staged_file(layout, directory / layout.name, uncached)) for layout in prepared.files
        ]
        work = MergeWork(prepared, files, staged, meter)
        with _flushing(staged):
            # A file that isn't the manifest's is the better explanation of whatever is wrong with its content.
            with meanwhile(partial(work.digest, range(len(files)))):
                work.write_all()
            for file in staged:
                file.finish()
            work.digest((), range(len(staged)))
            if prepared.request.proof:
                work.prove(tensors)
        work.check_inputs()
        record = work.record()
        publish(record, [file.path for file in staged], prepared)
        return record


@contextmanager
def _flushing(staged: Sequence[StagedFile]) -> Iterator[None]:
    """Flush to disk again and again while the block runs, so that the disk is busy from the first block on."""
    ended = threading.Event()

    def flush() -> None:
        while not ended.wait(_FLUSH_SECONDS):
            for file in staged:
                file.flush()

    with meanwhile(flush):
        try:
            yield
        finally:
            ended.set()
