"""Names of parameters that a user lists in a file, whatever the file is: `--trainable-from`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError, CorruptShard
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.shards.roles import Role, Trait, roles_of
from shardline.checkpoint.strategy.strategy_file import read_layouts

_LARGEST_LIST = 1 << 26
_FIRST_BYTE_OF_A_CHECKPOINT = b"\x0a"
"""Of its first record; a strategy file begins with `current_stage`."""
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def listed_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The names that the files at `paths` list, each once, in order.

    A file is text with a name a line (`#` begins a comment), a JSON list, the index of a checkpoint in several files, a
    checkpoint, all of whose tensors are meant, or a strategy file; a folder holds strategy files. MindSpore 2.10 writes
    optimizer states into strategy files even with only_trainable_params: those that read like states beside their
    parameters are left out of them.

    Raises `ConfigError` where a file is none of these or names nothing, and what reading the others does.
    """
    strategies = [path for path in paths if _is_strategy(path)]
    lists = [_listed(path) for path in paths if path not in strategies]
    names = tuple(dict.fromkeys([*(name for names in lists for name in names), *_of_strategies(strategies)]))
    if not names:
        raise ConfigError(f"{paths[0]}: expected the names of parameters, found none")
    return names


def _of_strategies(paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    layouts, _ = read_layouts(paths)
    traits = {name: Trait(None, layout) for name, layout in layouts.by_name.items()}
    roles = roles_of(traits, has_strategy=True)
    return [name for name in traits if roles[name] in (Role.WEIGHT, Role.UNDECIDED)]


def _is_strategy(path: Path) -> bool:
    if path.is_dir():
        return True
    if path.suffix == ".safetensors":
        return False
    content = _start(path)
    document = _json(path) if content.lstrip()[:1] in (b"{", b"[") else None
    if document is not None:
        return isinstance(document, dict) and "parallel_layout_item" in document
    return _text(path) is None and content[:1] != _FIRST_BYTE_OF_A_CHECKPOINT


def _listed(path: Path) -> list[str]:
    if path.suffix != ".safetensors":
        document = _json(path) if _start(path).lstrip()[:1] in (b"{", b"[") else None
        if document is not None:
            return _of_document(document, path)
        if (text := _text(path)) is not None:
            lines = (line.strip() for line in text.splitlines())
            return [line for line in lines if line and not line.startswith("#")]
    return [header.name for header in index_checkpoint(path).schema.headers]


def _of_document(document: Any, path: Path) -> list[str]:
    names = document.get("weight_map") if isinstance(document, dict) else document
    if isinstance(names, dict):
        names = list(names)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{path}: expected a JSON list of names, or an index with a weight_map, found something else; give one of "
            "these, a text with a name a line, a checkpoint, or a strategy file"
        )
    return names


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigError(f"{path}: the list of names cannot be read: {error.strerror}") from error


def _text(path: Path) -> str | None:
    """The file's text; `None` where it is none."""
    if path.stat().st_size > _LARGEST_LIST:
        return None
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if _NO_TEXT.search(text) else text


def _json(path: Path) -> Any:
    """What the JSON file holds; `None` where it is too large for a list of names, or no text."""
    text = _text(path)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptShard(f"{path}: it begins like JSON, but is none: {error}; correct it") from error
