"""Publishing a proved merge: its files take their names, the record comes last, what they replace goes."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.errors import CheckpointError, OutputError
from shardline.checkpoint.formats.output_file import index_document
from shardline.checkpoint.merging.record import encode_record, published_files, read_record
from shardline.checkpoint.merging.request import MergeRequest, Prepared


def main_digest(record: Mapping[str, Any]) -> str:
    """The digest of the output file, or of the index where there are several."""
    return str(record["output"][0]["digest"])


def publish(record: Mapping[str, Any], staged: Sequence[Path], prepared: Prepared) -> None:
    """Rename `staged` to the names in `record`, write the index where there are several, and then the record."""
    request = prepared.request
    directory = request.output.parent
    replaced = _replaced_files(request)
    published = published_files(record, request.record_path)
    try:
        for path, described in zip(staged, published[-len(staged) :], strict=True):
            atomic.publish(path, directory / described.name)
        if request.max_file_size is not None:
            names = {described.name: file for file, described in zip(prepared.files, published[1:], strict=True)}
            atomic.write_bytes(directory / published[0].name, index_document(names))
        atomic.write_text(request.record_path, encode_record(record))
    except OSError as error:
        raise OutputError(f"{request.output}: cannot be published: {error}; make room, then merge again") from error
    for path in replaced - {directory / described.name for described in published}:
        path.unlink(missing_ok=True)


def remove_abandoned_files(output: Path) -> None:
    """Remove what merges into `output` that no longer run left staged, whatever their files were called."""
    for path in output.parent.glob(f".{glob.escape(output.stem)}*.staged"):
        target, _, _ = path.name[1:].rsplit(".", 2)
        if path.is_file():
            atomic.remove_abandoned(path.with_name(target))


def check_record_is_ours(request: MergeRequest) -> None:
    """`OutputError` where merge.json beside the output is of another output, unless the folder is the request's own."""
    if request.owns_folder:
        return
    try:
        record = read_record(request.record_path)
    except CheckpointError:
        return
    if record["options"].get("output") != request.output.name:
        raise OutputError(
            f"{request.record_path} is the record of {record['options'].get('output')!r}; give {request.output.name!r} "
            "a folder of its own"
        )


def _replaced_files(request: MergeRequest) -> set[Path]:
    """What the last merge published here."""
    try:
        files = published_files(read_record(request.record_path), request.record_path)
    except CheckpointError:
        return set()
    return {request.output.parent / file.name for file in files}
