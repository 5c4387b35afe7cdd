"""A merge in parts, for several machines on a shared folder: plan, write part i of n, commit.

`plan` reserves the output's files in a folder beside it, `.OUTPUT.parts`, with `plan.json`. Each part then writes
and proves its own tensors there and digests its share of the inputs, and leaves `part-I-of-N.json`, atomically: parts
run in any order, on any host, several times, and can be killed. `commit` publishes when all parts are done, the same
bytes, record included, as a merge in one process.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from shardline.base.counts import counted, of_count
from shardline.base.errors import ConfigError, CorruptShard, MissingShard, OutputError, ProofError
from shardline.base.progress import Meter
from shardline.base.recordable import check_recordable
from shardline.base.workers import default_workers
from shardline.checkpoint.formats.output_file import index_path
from shardline.checkpoint.formats.staging import opened_file, reserved_file
from shardline.checkpoint.formats.tensor_io import open_all
from shardline.checkpoint.merging.merge import Merged, make_folder, notices_of
from shardline.checkpoint.merging.name_map import link_name_map
from shardline.checkpoint.merging.output_lock import exclusive
from shardline.checkpoint.merging.part_documents import (
    PLAN,
    no_plan,
    part_document,
    read_parts,
    read_plan,
    write_document,
    write_plan,
)
from shardline.checkpoint.merging.publish import (
    check_places,
    main_digest,
    parts_folder,
    publish,
    remove_abandoned_files,
    remove_other_outputs,
    settle,
)
from shardline.checkpoint.merging.record_file import record_path
from shardline.checkpoint.merging.request import MergeRequest, Prepared, prepare
from shardline.checkpoint.merging.unchanged import recorded_merge
from shardline.checkpoint.merging.work import MergeWork
from shardline.checkpoint.shards.plan import PlannedTensor
from shardline.checkpoint.shards.selection import selection_from, selection_record


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"part {self.number}/{self.count}: expected a part from 1 to {self.count}")

    @property
    def name(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def file_name(self) -> str:
        return f"part-{self.number}-of-{self.count}.json"

    def tensors_of(self, tensors: Sequence[PlannedTensor]) -> list[PlannedTensor]:
        """This part's tensors: consecutive ones, of about an equal number of bytes."""
        total = max(sum(tensor.merged.size for tensor in tensors), 1)
        mine, position = [], 0
        for tensor in tensors:
            middle = position + tensor.merged.size // 2
            if min(middle * self.count // total, self.count - 1) == self.number - 1:
                mine.append(tensor)
            position += tensor.merged.size
        return mine


def is_planned(request: MergeRequest) -> bool:
    """Whether the plan of this very merge is there, with all the files that it reserved."""
    prepared = prepare(request)
    return _has_plan(parts_folder(request.output), _plan_document(prepared), prepared)


def is_merged(request: MergeRequest) -> bool:
    """Whether a merge equal to `request` was published already; reads all that it names."""
    return recorded_merge(prepare(request)) is not None


def plan_parts(request: MergeRequest) -> dict[str, Any]:
    """Reserve the output of `request` and write its plan; an equal plan that is there already stays, parts included."""
    if not request.proof:
        raise ConfigError("a merge in parts is always proved; leave --no-proof out")
    prepared = prepare(request)
    make_folder(request.output.parent)
    folder = parts_folder(request.output)
    with exclusive(request.output):
        check_places(request)
        document = _plan_document(prepared)
        if not _has_plan(folder, document, prepared):
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
            with ExitStack() as stack:
                for layout in prepared.files:
                    stack.enter_context(reserved_file(layout, folder / layout.name)).flush()
            write_plan(folder, document)
    return {"plan": str(folder / PLAN), "tensors": len(prepared.plan.tensors), "bytes": prepared.plan.bytes_out}


def write_part(output: Path, part: Part, workers: int | None = None, meter: Meter | None = None) -> dict[str, Any]:
    """Write and prove one part of the planned merge into `output`."""
    prepared, digest = _planned(output, workers)
    folder = parts_folder(output)
    tensors = part.tensors_of(prepared.plan.tensors)
    ranks = range(part.number - 1, len(prepared.slices.files), part.count)
    with ExitStack() as stack:
        files = stack.enter_context(open_all(prepared.slices.files))
        staged = [stack.enter_context(opened_file(layout, folder / layout.name)) for layout in prepared.files]
        work = MergeWork(prepared, files, staged, meter or Meter())
        work.write(tensors)
        for file in staged:
            file.flush()
        work.digest(ranks)
        work.prove(tensors)
        work.check_inputs()
    write_document(folder / part.file_name, part_document(digest, work.input_digests, work.proven))
    return {"part": part.name, "tensors": len(tensors)}


def commit_parts(output: Path, workers: int | None = None, meter: Meter | None = None) -> Merged:
    """Publish the planned merge into `output`, after holding what lies there against what the parts compared.

    `OutputError` names the parts that are not done, `ProofError` those whose bytes changed since.
    """
    with exclusive(output):
        settle(output, record_path(output))
        remove_abandoned_files(output)
        prepared, digest = _planned(output, workers)
        folder = parts_folder(output)
        if not _has_files(folder, prepared) and (recorded := recorded_merge(prepared)) is not None:
            shutil.rmtree(folder, ignore_errors=True)  # a commit was stopped after it had published
            return Merged(output, main_digest(recorded), recorded, notices_of(prepared), was_up_to_date=True)
        with ExitStack() as stack:
            files = stack.enter_context(open_all(prepared.slices.files))
            staged = [stack.enter_context(opened_file(layout, folder / layout.name)) for layout in prepared.files]
            work = MergeWork(prepared, files, staged, meter or Meter())
            proved_by = _collect(work, folder, digest)
            for file in staged:
                file.finish()
            work.digest((), range(len(staged)))
            _check_written(work, folder, proved_by)
            work.check_inputs()
            record = work.record()
            publish(record, [file.path for file in staged], prepared)
        remove_other_outputs(prepared.request)
        notices = (*notices_of(prepared), *link_name_map(index_path(output)))
        shutil.rmtree(folder, ignore_errors=True)  # what stays, the next plan removes
    return Merged(output, main_digest(record), record, notices, was_up_to_date=False)


def _collect(work: MergeWork, folder: Path, digest: str) -> dict[str, str]:
    """Take over what the parts found; every tensor and every input must be among it. By tensor, in whose document."""
    tensors = {tensor.merged.name for tensor in work.prepared.plan.tensors}
    proved_by: dict[str, str] = {}
    parts = [part for part in read_parts(folder) if part.plan == digest]
    for part in parts:
        if not (tensors.issuperset(part.proven) and set(range(len(work.files))).issuperset(part.inputs)):
            raise CorruptShard(
                f"{part.path}: it names tensors or ranks that the plan hasn't; remove it, write that part again, then "
                "commit"
            )
        work.input_digests |= part.inputs
        work.proven |= part.proven
        proved_by |= dict.fromkeys(part.proven, part.path.name)
    missing = sorted(tensors - set(work.proven))
    undigested = sorted(set(range(len(work.files))) - set(work.input_digests))
    if missing or undigested:
        done = [part.path.name for part in parts]
        raise OutputError(
            f"{folder}: {len(missing)} of {counted(len(tensors), 'tensor')} {of_count(len(missing), 'is', 'are')} not "
            f"proved and {counted(len(undigested), 'input')} not digested; done are {done or 'no parts'}: write the "
            "others, then commit again"
        )
    return proved_by


def _check_written(work: MergeWork, folder: Path, proved_by: Mapping[str, str]) -> None:
    """`ProofError` where the files in `folder` no longer hold what the parts compared with the slices."""
    changed = work.changed_tensors()
    if changed:
        parts = sorted({proved_by[name] for name in changed})
        raise ProofError(
            f"{folder}: the bytes of {', '.join(changed[:8])}{' …' if len(changed) > 8 else ''} are not those that "
            f"{', '.join(parts)} compared with the slices: they were damaged or lost since, or another process wrote "
            "there. Nothing was published: write these parts again, then commit"
        )


def _plan_document(prepared: Prepared) -> dict[str, Any]:
    """What every part must find again, and the request by paths relative to the output's folder."""
    request = prepared.request
    base = request.output.parent.absolute()
    for path in (request.shards, *request.strategies):
        check_recordable("a path that every part is to find", path)
    return {
        "request": {
            "shards": os.path.relpath(request.shards.absolute(), base),
            "strategies": [os.path.relpath(path.absolute(), base) for path in request.strategies],
            "output": request.output.name,
            "step": prepared.slices.step or None,
            "prefix": request.prefix,
            "integrated": request.integrated,
            "selection": selection_record(request.selection),
            "max_file_size": request.max_file_size,
            "crc": request.crc,
            "allow_non_finite": request.allow_non_finite,
            "owns_folder": request.owns_folder,
        },
        "digest": _plan_digest(prepared),
    }


def _plan_digest(prepared: Prepared) -> str:
    """Of the inputs' names, sizes, times and headers, and of the output's layout: all that the parts must agree on.

    With inode and time, slices that were replaced between two parts by others of the same shapes are other inputs.
    """
    digest = blake3()

    def add(described: Any) -> None:
        digest.update(json.dumps(described, sort_keys=True, default=list).encode() + b"\n")

    add([prepared.options(), prepared.strategy_digests, prepared.slices.step])
    of_schema: dict[int, str] = {}  # most ranks share one
    for file in prepared.slices.files:
        schema = file.schema
        if id(schema) not in of_schema:
            of_schema[id(schema)] = blake3("\n".join(map(str, schema.headers)).encode()).hexdigest()
        path = file.path.relative_to(prepared.slices.directory)
        add([str(path), file.size, *_version(file.path), of_schema[id(schema)]])
    for output in prepared.files:
        add([output.name, output.size, sorted(output.extents.items())])
    return digest.hexdigest()


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _has_plan(folder: Path, document: Mapping[str, Any], prepared: Prepared) -> bool:
    """Whether this plan is there, with the files that it reserved: a commit that was killed may have taken them."""
    try:
        return read_plan(folder) == document and _has_files(folder, prepared)
    except (MissingShard, CorruptShard):
        return False


def _has_files(folder: Path, prepared: Prepared) -> bool:
    """Whether all files that were reserved are still there."""
    paths = [(folder / file.name, file.size) for file in prepared.files]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _planned(output: Path, workers: int | None) -> tuple[Prepared, str]:
    """The merge that was planned, prepared again here; `CorruptShard` where its inputs are others by now."""
    folder = parts_folder(output)
    document = read_plan(folder)
    try:
        request = _request(document["request"], output, workers or default_workers())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise no_plan(folder / PLAN, repr(error)) from error
    prepared = prepare(request)
    if _plan_digest(prepared) != document["digest"]:
        raise CorruptShard(f"{folder / PLAN}: the slices or the strategy are not those that were planned; plan again")
    return prepared, str(document["digest"])


def _request(asked: Mapping[str, Any], output: Path, workers: int) -> MergeRequest:
    """The request as the plan has it."""
    return MergeRequest(
        shards=Path(os.path.normpath(output.parent / asked["shards"])),
        strategies=tuple(Path(os.path.normpath(output.parent / strategy)) for strategy in asked["strategies"]),
        output=output,
        step=asked["step"],
        prefix=asked.get("prefix"),
        integrated=asked["integrated"],
        selection=selection_from(asked["selection"]),
        max_file_size=asked["max_file_size"],
        crc=asked["crc"],
        allow_non_finite=asked["allow_non_finite"],
        owns_folder=asked["owns_folder"],
        workers=workers,
    )
