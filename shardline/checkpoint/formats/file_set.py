"""One integrated checkpoint in several files, read as one: every tensor stands whole in one of them.

Which files these are, an index beside them says:

    NAME.safetensors.index.json   ours with --max-file-size, and Hugging Face's: {"weight_map": {TENSOR: FILE}}
    param_name_map.json           MindSpore's `unified_safetensors`: the same, in older versions {TENSOR: FILE} itself;
                                  hyper_param.safetensors beside it belongs to the set and is not named in it

Read in mindspore/parallel/transform_safetensors.py, 2.10.0, and the Hugging Face hub's documentation of serialization.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from shardline.base.counts import counted
from shardline.base.errors import CheckpointError, CorruptShard, MissingShard, UnsupportedFormat
from shardline.base.file_names import is_plain
from shardline.base.json_object import read_object
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.reading import index_checkpoint

INDEX_SUFFIX = ".safetensors.index.json"
NAME_MAP = "param_name_map.json"
_HYPER_PARAMETERS = "hyper_param.safetensors"
_SUFFIXES = (".ckpt", ".safetensors")
_ONE_OF_SEVERAL = re.compile(r"-[0-9]{5}-of-(?P<count>[0-9]{5})\.safetensors$")


@dataclass(frozen=True)
class FileSet:
    """The files of one integrated checkpoint, in the order in which the index first names them.

    `path` is the index, or the one file. Where there are several, each says of itself that it may lack what another
    holds (`removes_redundancy`); a tensor that two of them hold must be equal in both.
    """

    path: Path
    files: tuple[FileIndex, ...]


def is_index(path: Path) -> bool:
    """Whether the name of `path` is that of an index of several files."""
    return path.name.endswith(INDEX_SUFFIX) or path.name == NAME_MAP


def read_file_set(path: Path) -> FileSet:
    """The integrated checkpoint at `path`: one file, the index of several, or a folder that holds one of these.

    `MissingShard` where there is none or a file that the index names is not there, `CorruptShard` where an index
    contradicts its files, `UnsupportedFormat` for what is no integrated checkpoint, or only a part of one.
    """
    if path.is_dir():
        path = _within(path)
    if is_index(path):
        return _read_indexed(path)
    if not path.is_file():
        raise MissingShard(f"{path}: there is no such checkpoint; give a file, an index of several, or their folder")
    _check_whole(path)
    return FileSet(path, (index_checkpoint(path),))


def _within(folder: Path) -> Path:
    """The index in `folder`, or its only checkpoint file."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise MissingShard(f"{folder}: cannot be listed: {error.strerror}; is it readable for this user?") from error
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(_SUFFIXES)]
    if not indexes and NAME_MAP in names:
        indexes = [NAME_MAP]
    candidates = indexes or files
    if len(candidates) == 1:
        return folder / candidates[0]
    if candidates:
        kind = "indexes" if indexes else "checkpoint files and no index"
        raise UnsupportedFormat(f"{folder} holds {len(candidates)} {kind}: {_some(candidates)}; give one of them")
    raise UnsupportedFormat(f"{folder}: expected an integrated checkpoint, found {_what_else(names)}")


def _what_else(names: Iterable[str]) -> str:
    """What a folder holds that is no integrated checkpoint, and what to do with it."""
    found = list(names)
    if "rank_0" in found:
        return "the ranks' folders; these are slices: give them as --shards, with --strategy"
    if any(name.endswith(".bin") for name in found):
        return "PyTorch's .bin files, which are not read; save the model as .safetensors"
    return f"{_some(found)}; give a .ckpt, a .safetensors or an index" if found else "nothing; is it the right folder?"


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {counted(len(names) - 8, 'other')}" if len(names) > 8 else "")


def _read_indexed(path: Path) -> FileSet:
    named = _weight_map(path)
    indexed = {name: _indexed(path, name) for name in _members(path, named)}
    for tensor, name in named.items():
        if tensor not in indexed[name].schema.positions:
            raise CorruptShard(
                f"{path}: it says that {name} holds {tensor!r}, but that file doesn't; is the index of another model, "
                "or was the file replaced? Give an index and the files that were saved with it"
            )
    if len(indexed) == 1:
        return FileSet(path, tuple(indexed.values()))
    return FileSet(path, tuple(_as_part(index) for index in indexed.values()))


def _members(path: Path, named: Mapping[str, str]) -> Iterable[str]:
    """The names of the files that belong to the index at `path`, in the order in which it names them."""
    members = dict.fromkeys(named.values())
    if path.name == NAME_MAP and path.with_name(_HYPER_PARAMETERS).is_file():
        members[_HYPER_PARAMETERS] = None
    return members


def _as_part(index: FileIndex) -> FileIndex:
    return replace(index, metadata={**index.metadata, "remove_redundancy": "True"})


def _indexed(path: Path, name: str) -> FileIndex:
    file = path.with_name(name)
    if not file.is_file():
        raise MissingShard(f"{file}: {path.name} names it, but it is not there; copy all files of the model here")
    return index_checkpoint(file)


def _weight_map(path: Path) -> Mapping[str, str]:
    """Tensor → name of the file beside `path` that holds it."""
    document = read_object(path, "index")
    named = document.get("weight_map", document if path.name == NAME_MAP else None)
    if not isinstance(named, dict) or not named:
        raise CorruptShard(f'{path}: expected {{"weight_map": {{TENSOR: FILE}}}}, found none; this is no index')
    for tensor, name in named.items():
        if not isinstance(name, str) or not name.endswith(_SUFFIXES) or not is_plain(name):
            raise CorruptShard(
                f"{path}: expected the name of a checkpoint file beside it for {tensor!r}, found {name!r:.80}"
            )
    return named


def _check_whole(path: Path) -> None:
    """`UnsupportedFormat` where the file is one of several that make up a model."""
    match = _ONE_OF_SEVERAL.search(path.name)
    index = next(_indexes_that_name(path), None)
    if index is not None or (match is not None and int(match["count"]) > 1):
        others = f"the index, {index}" if index else "the index of all of them (*.safetensors.index.json)"
        raise UnsupportedFormat(f"{path} is one of several files that make up a model; give {others}, or the folder")


def _indexes_that_name(path: Path) -> Iterator[Path]:
    for index in sorted([*path.parent.glob(f"*{INDEX_SUFFIX}"), *path.parent.glob(NAME_MAP)]):
        try:
            names = set(_members(index, _weight_map(index)))
        except CheckpointError:
            continue  # whatever is wrong with it, nobody asked for it
        if path.name in names and len(names) > 1:
            yield index
