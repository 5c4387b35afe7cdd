"""Publishing a proved merge: its files and its record take their names so that every instant shows one whole pair.

1. All is staged and flushed: the files, the record, and one that holds the old record and the new (`record_file`).
2. That one takes the record's name. From here on the output may be the old one or the new one.
3. The files take their names, the one that decides last. Several carry a tag of their content in their names, so that
   none replaces a part of the old output; their index decides.
4. What only the old output had is removed.
5. The record takes its name.

Wherever that stops, `settle` finishes it, or takes it back.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.errors import CheckpointError, CorruptShard, MissingShard, OutputError
from shardline.base.remedies import remedy
from shardline.checkpoint.formats.output_file import index_document, index_path
from shardline.checkpoint.merging.name_map import unlink_name_map
from shardline.checkpoint.merging.record_file import (
    SUFFIX,
    UNNAMED,
    Publication,
    Record,
    encode_publication,
    is_published,
    published_files,
    read_publication,
    read_record,
)
from shardline.checkpoint.merging.request import MergeRequest, Prepared


def main_digest(record: Mapping[str, Any]) -> str:
    """The digest of the output file, or of the index where there are several."""
    return str(record["output"][0]["digest"])


def publish(record: Record, staged: Sequence[Path], prepared: Prepared) -> None:
    """Give `staged` the names in `record`, with an index where there are several; `record` takes its own with them."""
    request = prepared.request
    try:
        with ExitStack() as stack:
            files = [*_index(record, prepared, stack), *staged]
            _switch(request, record, files, stack)
    except BaseException as error:
        with suppress(OSError, CheckpointError):
            settle(request.output, request.record_path)
        if isinstance(error, OSError):
            raise OutputError(
                f"{request.output}: cannot be published: {error}; {remedy(error)}, then merge again"
            ) from error
        raise


def _index(record: Record, prepared: Prepared, stack: ExitStack) -> Iterator[Path]:
    """The staged index of several files."""
    if prepared.request.max_file_size is None:
        return
    index, *files = published_files(record, prepared.request.record_path)
    names = {published.name: file for file, published in zip(prepared.files, files, strict=True)}
    yield stack.enter_context(_written(prepared.request.output.with_name(index.name), index_document(names)))


def _switch(request: MergeRequest, record: Record, staged: Sequence[Path], stack: ExitStack) -> None:
    path, old = request.record_path, _old_record(request)
    both = path.with_name(f"{path.name}.both")
    content = encode_publication(Publication(old, record))
    staged_both = stack.enter_context(_written(both, content))
    staged_record = stack.enter_context(_written(path, encode_publication(Publication(record))))
    for file in staged:
        atomic.flush(file)
    targets = [path.with_name(file.name) for file in published_files(record, path)]
    _name([staged_both], [path])
    _name(staged[1:], targets[1:])
    _name(staged[:1], targets[:1])
    _remove_replaced(old, record, request.output, path)
    _name([staged_record], [path])


def _name(staged: Sequence[Path], targets: Sequence[Path]) -> None:
    """Give flushed files their names, durably."""
    for path, target in zip(staged, targets, strict=True):
        path.replace(target)
    for folder in {target.parent for target in targets}:
        atomic.sync_directory(folder)


@contextmanager
def _written(target: Path, content: bytes) -> Iterator[Path]:
    """A flushed file that holds `content`, to be renamed to `target`; removed when the block ends, unless it was."""
    path = atomic.staged_path(target)
    try:
        path.write_bytes(content)
        atomic.flush(path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def settle(output: Path, path: Path) -> None:
    """Finish, or take back, the publication of `output` that was interrupted, if any, as the record at `path` says."""
    publication = _publication(path)
    if publication is None or publication.replaced_by is None:
        return
    old, new = publication.record, publication.replaced_by
    if is_published(new, path):
        _remove_replaced(old, new, output, path)
        _write(path, encode_publication(Publication(new)))
        return
    # The file that decides is not the new one: that name may be the old one's, or a file that was never ours.
    _remove([file for file in _files(new, path)[1:] if file not in _files(old, path)])
    if old is not None:
        _write(path, encode_publication(Publication(old)))
    else:
        _remove([path])


def parts_folder(output: Path) -> Path:
    """Where the parts of a merge into `output` meet."""
    return output.with_name(f".{output.name}.parts")


def remove_other_outputs(request: MergeRequest) -> None:
    """In a folder that is the request's own, remove every other merge: its files first, its record last.

    With them goes what was reserved for a merge in parts that nobody will commit any more.
    """
    if not request.owns_folder:
        return
    folder = request.output.parent
    for reserved in folder.glob(parts_folder(folder / "*").name):
        shutil.rmtree(reserved, ignore_errors=True)
    records = [path for path in folder.glob(f"*{SUFFIX}") if path != request.record_path]
    try:
        for path in [*records, folder / UNNAMED]:
            with suppress(MissingShard, CorruptShard):
                settle(path.with_name(path.name.removesuffix(SUFFIX)), path)
                mine = _files(read_record(request.record_path), path)
                _remove([file for file in _files(read_record(path), path) if file not in mine])
                _remove([path])
    except OSError as error:
        raise OutputError(f"{folder}: what was merged before cannot be removed: {error}; {remedy(error)}") from error


def check_places(request: MergeRequest) -> None:
    """`OutputError` where a folder lies where the output or its record is to lie."""
    for path in (request.output, request.record_path):
        if path.is_dir():
            raise OutputError(
                f"{path} is a folder, where a file is to lie: give --output the name of a file, or remove it"
            )


def remove_abandoned_files(output: Path) -> None:
    """Remove what merges into `output` that no longer run left staged, whatever their files were called."""
    name, stem = glob.escape(output.name), glob.escape(output.stem)
    for pattern in (f".{name}.*.staged", f".{stem}-*.staged"):
        for path in output.parent.glob(pattern):
            target, _, _ = path.name[1:].rsplit(".", 2)
            if path.is_file():
                atomic.remove_abandoned(path.with_name(target))


def _old_record(request: MergeRequest) -> Record | None:
    """The record of what the output replaces, under its own name or as an earlier Shardline named it."""
    publication = _publication(request.record_path)
    return publication.record if publication is not None else _earlier_record(request.output)


def _publication(path: Path) -> Publication | None:
    """What the record's file says; `None` where there is none, or something else; an error where it cannot be read."""
    if not path.exists():
        return None
    with suppress(CorruptShard):
        return read_publication(path)
    return None


def _earlier_record(output: Path) -> Record | None:
    """The record of `output` as an earlier Shardline named it."""
    publication = _publication(output.with_name(UNNAMED))
    if publication is None or publication.record is None:
        return None
    return publication.record if publication.record["options"].get("output") == output.name else None


def _remove_replaced(old: Record | None, new: Record, output: Path, path: Path) -> None:
    """Remove the files that `old` had and `new` hasn't, and the record that an earlier Shardline left of `output`."""
    replaced = [file for file in _files(old, path) if file not in _files(new, path)]
    if index_path(output) in replaced:
        unlink_name_map(index_path(output))
    _remove(replaced)
    if _earlier_record(output) is not None:
        _remove([path.with_name(UNNAMED)])


def _files(record: Record | None, path: Path) -> list[Path]:
    """The files of a record, the one first that decides which of several there are."""
    return [path.with_name(file.name) for file in published_files(record, path)] if record is not None else []


def _remove(paths: Sequence[Path]) -> None:
    """Remove `paths`, durably, and in this order."""
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        atomic.sync_directory(folder)


def _write(path: Path, content: bytes) -> None:
    with _written(path, content) as staged:
        _name([staged], [path])
