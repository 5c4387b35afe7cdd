"""JSON objects in files that may hold anything: UTF-8, with or without a byte-order mark."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.errors import CorruptShard, MissingShard

_LARGEST_FILE = 1 << 30
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes half of a pair; where there is none, nothing needs a closer look."""


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The object in the JSON file at `path`, which is `what`, as "index" or "manifest".

    `MissingShard` where there is no such file or it cannot be opened, else as `parse_object`.
    """
    if not path.is_file():
        raise MissingShard(f"{path}: there is no such {what}")
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise CorruptShard(
                f"{path}: expected a JSON object as {what}, found {counted(size, 'byte')}; this is no {what}"
            )
        content = path.read_bytes()
    except OSError as error:
        raise MissingShard(f"{path}: cannot be read: {error.strerror}; is it readable for this user?") from error
    return parse_object(content, path, what)


class DuplicateName(ValueError):
    """An object names something twice."""


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these members, as an `object_pairs_hook` of `json`; `DuplicateName` where two have one name."""
    members = dict(pairs)
    if len(members) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise DuplicateName(f"the name {twice!r:.200} appears twice")
    return members


def parse_object(content: bytes, path: Path, what: str) -> dict[str, Any]:
    """The object that `content` of `path` holds, which is `what` the file has there, as "header" or "strategy".

    `CorruptShard` where it is no JSON, no object, names something twice, of which JSON readers would drop one, or
    holds a lone surrogate, which no file can have in a name.
    """
    try:
        text = content.decode("utf-8-sig")
        document = json.loads(text, object_pairs_hook=without_duplicates)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CorruptShard(
            f"{path}: its {what} holds a lone surrogate, {error.object[error.start]!a}, which is no character; "
            "the file was not written by a training run"
        ) from error
    except DuplicateName as error:
        raise CorruptShard(f"{path}: {error} in the {what}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptShard(f"{path}: its {what} is not JSON: {error}; the file is damaged") from error
    if not isinstance(document, dict):
        raise CorruptShard(f"{path}: expected a JSON object as {what}, found {type(document).__name__}")
    return document


def object_in(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object that `text` is, a line of a log say; `None` where it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: a number of too many digits, too
        return None
    return document if isinstance(document, dict) else None


def encode_object(document: Mapping[str, Any]) -> bytes:
    """`document` as JSON, UTF-8, for people to read too."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
