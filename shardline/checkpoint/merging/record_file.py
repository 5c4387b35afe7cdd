"""NAME.merge.json, the record beside the output NAME: where it lies, how it is read, and what it says of a publication.

Two files cannot take their names at one instant. So while an output replaces another, the record's file holds both: the
old record as ever, and with it `replaced_by`, the new one. Which of the two is true the output itself tells, by its
digest: at every instant the pair is the old one or the new one, whenever a process was killed or the power failed. The
next merge finishes such a publication, or takes it back (`publish.settle`); until then all readers choose as it would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard, MissingShard
from shardline.base.file_names import is_plain
from shardline.base.json_object import encode_object, read_object

RECORD_FORMAT = 1
SUFFIX = ".merge.json"
UNNAMED = "merge.json"
"""The record in a folder that holds one model alone: a promoted version's, or a merge's by an earlier Shardline."""
_REPLACED_BY = "replaced_by"
_PART = re.compile(r"(?P<stem>.+)-[0-9a-f]{8}-\d{5}-of-\d{5}\.safetensors")
_OF_A_TENSOR = {"name", "type", "shape", "file", "extents"}
Record = dict[str, Any]


@dataclass(frozen=True)
class PublishedFile:
    """One file of the output: its name beside the record, its size in bytes and its BLAKE3 digest."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Publication:
    """What a record's file says: `record`; in the middle of a publication both, `record` being `None` at the first."""

    record: Record | None
    replaced_by: Record | None = None


def record_path(output: Path) -> Path:
    """Where the record of the merge into `output` lies."""
    return output.with_name(f"{output.name}{SUFFIX}")


def find_record(file: Path) -> Path:
    """The record of a merged file, of the index of several, or of one of these; where it would lie if there is none."""
    names = [file.name, file.name.removesuffix(".index.json")]
    if part := _PART.fullmatch(file.name):
        names.append(f"{part['stem']}.safetensors")
    candidates = [*(file.with_name(f"{name}{SUFFIX}") for name in names), file.with_name(UNNAMED)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def encode_publication(publication: Publication) -> bytes:
    """The content of a record's file."""
    document = publication.record or {"format": RECORD_FORMAT}
    if publication.replaced_by is not None:
        document = {**document, _REPLACED_BY: publication.replaced_by}
    return encode_object(document)


def read_publication(path: Path) -> Publication:
    """What the record's file at `path` says; `MissingShard` where there is none, `CorruptShard` where it is none."""
    document = read_object(path, "record of a merge")
    new = document.pop(_REPLACED_BY, None)
    if new is None:
        return Publication(_checked(document, path))
    replaced_by = _checked(new, path)
    return Publication(_checked(document, path) if "output" in document else None, replaced_by)


def read_record(path: Path, output: Path | None = None) -> Record:
    """The record of the output beside `path`: where a publication was interrupted, that of what is there.

    Both are there for an instant where a single file takes the place of several, or they its: `output` says which of
    them is meant, by one of its files.
    """
    publication = read_publication(path)
    old, new = publication.record, publication.replaced_by
    if new is not None and is_published(new, path):
        is_of_old_alone = output is not None and output.name in _names(old, path) - _names(new, path)
        return old if old is not None and is_of_old_alone else new
    if old is None:
        raise MissingShard(f"{path}: the merge was interrupted before its output had its name; merge again")
    return old


def is_published(record: Mapping[str, Any], path: Path) -> bool:
    """Whether the output beside `path` is the one of `record`: its first file, which is named last, tells."""
    main = published_files(record, path)[0]
    file = path.with_name(main.name)
    return file.is_file() and file.stat().st_size == main.size and file_digest(file) == main.digest


def published_files(record: Mapping[str, Any], path: Path) -> list[PublishedFile]:
    """The output's files that a record names; plain names, so that they lie beside it."""
    try:
        files = [PublishedFile(**item) for item in record["output"]]
    except TypeError as error:
        raise _no_record(path, error) from error
    for file in files:
        if not isinstance(file.name, str) or not is_plain(file.name):
            raise _no_record(path, f"expected names of files beside it, found {file.name!r}")
        if type(file.size) is not int or not isinstance(file.digest, str):
            raise _no_record(path, f"{file.name!r} has the size {file.size!r} and the digest {file.digest!r}")
    return files


def _names(record: Record | None, path: Path) -> set[str]:
    return {file.name for file in published_files(record, path)} if record is not None else set()


def _checked(document: object, path: Path) -> Record:
    """`document`, which has everything that a record must have."""
    if not isinstance(document, dict) or document.get("format") != RECORD_FORMAT:
        found = document.get("format") if isinstance(document, dict) else document
        raise _no_record(path, f"its format is {found!r}, expected {RECORD_FORMAT}")
    for key, kind in (("output", list), ("inputs", dict), ("options", dict), ("tensors", list)):
        if not isinstance(document.get(key), kind):
            raise _no_record(path, f"expected {key!r} as a JSON {'array' if kind is list else 'object'}")
    if not published_files(document, path):
        raise _no_record(path, "it names no file")
    for entry in document["tensors"]:
        if not isinstance(entry, dict) or not _OF_A_TENSOR.issubset(entry):
            raise _no_record(path, f"expected a tensor with {', '.join(sorted(_OF_A_TENSOR))}, found {entry!r:.80}")
    return document


def _no_record(path: Path, reason: object) -> CorruptShard:
    return CorruptShard(f"{path}: this is no record of a merge: {reason}; merge again")
