"""What a file or a folder of a sharded training run holds.

    shardline inspect FILE [--json]     a checkpoint, the index of several files, a strategy, a manifest, a record
    shardline inspect DIR [--json]      the ranks' files: whose, of which steps, on which ranks, and what a merge takes;
                                        Checkpoint 2.0; or a whole model in several files

Only headers are read, whatever the file's size.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.errors import CheckpointError, CorruptShard, MissingShard, ShardlineError, UnsupportedFormat
from shardline.base.json_object import read_object
from shardline.base.progress import human_size
from shardline.checkpoint.formats.checkpoint2 import METADATA
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.file_set import is_index, read_file_set
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.merging.record_file import read_record
from shardline.checkpoint.shards.checkpoint2 import is_checkpoint2
from shardline.checkpoint.shards.finding import checkpoint_files, locate_slices
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.strategy_file import Strategy, begins_like_a_strategy, read_strategy
from shardline.cli.inspect_checkpoint2 import COLUMNS, KIND, describe_checkpoint2, rows_of, total_of
from shardline.cli.inspect_folder import Row, describe_slices, slices_table

_OF_A_STRATEGY = {"current_stage", "parallel_strategy_item", "parallel_layout_item"}


def describe(path: Path) -> dict[str, Any]:
    """What `path` is and holds: `kind`, totals, and one entry for each thing in it, as JSON values."""
    if path.is_dir():
        return _describe_folder(path)
    if not path.is_file():
        raise MissingShard(f"{path}: there is no such file")
    if is_index(path):
        return _checkpoint(path, *read_file_set(path).files)
    if path.name == METADATA and is_checkpoint2(path.parent):
        return describe_checkpoint2(path.parent)
    if path.suffix == ".json":
        return _describe_json(path)
    if path.suffix == ".safetensors":
        return _checkpoint(path, index_checkpoint(path))
    return _describe_ckpt(path)


def _describe_folder(folder: Path) -> dict[str, Any]:
    """By what it holds; `MissingShard` or `UnsupportedFormat` says what that is, where it is none of these."""
    if is_checkpoint2(folder):
        return describe_checkpoint2(folder)
    if checkpoint_files(folder) or ShardSet.steps(folder):
        return describe_slices(folder)
    try:
        files = read_file_set(folder).files
    except UnsupportedFormat:
        locate_slices(folder, None)  # says what the folder holds instead
        raise
    return _checkpoint(folder, *files)


def _describe_json(path: Path) -> dict[str, Any]:
    """A strategy, a manifest or a record, told apart by their keys."""
    try:
        keys = read_object(path, "document").keys()
    except CorruptShard as error:
        raise UnsupportedFormat(f"{error}; expected a strategy, a manifest, a record or an index") from error
    if "slices" in keys:
        shard_set = asdict(ShardSet.read(path))
        return {"kind": "shard set", "file": str(path), **shard_set, "slices": list(shard_set["slices"])}
    if "tensors" in keys or "replaced_by" in keys:
        return {"kind": "record of a merge", "file": str(path), **read_record(path)}
    if not keys & _OF_A_STRATEGY:
        raise UnsupportedFormat(
            f"{path}: expected a strategy, a manifest, a record or an index, found a JSON object of "
            f"{', '.join(sorted(keys)[:8]) or 'nothing'}"
        )
    return _strategy(read_strategy(path), path)


def _describe_ckpt(path: Path) -> dict[str, Any]:
    """MindSpore gives checkpoints and strategies one suffix: it is whichever can be read."""
    try:
        return _checkpoint(path, index_checkpoint(path))
    except CheckpointError as no_checkpoint:
        try:
            return _strategy(read_strategy(path), path)
        except CheckpointError as no_strategy:
            raise (no_strategy if begins_like_a_strategy(path) else no_checkpoint) from None


def _checkpoint(path: Path, *files: FileIndex) -> dict[str, Any]:
    """One checkpoint, in one file or several; what a single file says of itself is left out of several."""
    alone = files[0] if len(files) == 1 else None
    return {
        "kind": "checkpoint",
        "file": str(path),
        "files": [file.path.name for file in files],
        "format": files[0].format,
        "size": sum(file.size for file in files),
        "metadata": alone.metadata if alone else {},
        "crc": alone.crc if alone else None,
        "tensors": [
            {
                "file": file.path.name,
                "name": header.name,
                "type": header.type.name,
                "shape": list(header.numbers),
                "bytes": header.size,
                "offset": int(file.offsets[position]),
                "pieces": len(file.extents(position)),
            }
            for file in files
            for position, header in enumerate(file.schema.headers)
        ],
    }


def _strategy(strategy: Strategy, path: Path) -> dict[str, Any]:
    return {
        "kind": "strategy",
        "file": str(path),
        "stage": strategy.stage,
        "operators": {name: asdict(operator) for name, operator in strategy.operators.items()},
        "layouts": {
            name: {
                "device_matrix": list(layout.device_matrix),
                "tensor_map": [list(axes) for axes in layout.tensor_map],
                "optimizer_shard_size": layout.optimizer_shard_size,
                "shards": list(layout.shards()),
                "replicas": layout.replicas,
                "field": layout.field,
                "param_split_shape": list(layout.param_split_shape),
                "indices_offset": list(layout.indices_offset),
            }
            for name, layout in strategy.layouts.items()
        },
    }


def render(described: dict[str, Any]) -> str:
    """`described` as text: a line of totals, and a table."""
    kind = described["kind"]
    if kind == "checkpoint":
        tensors = described["tensors"]
        several = f" in {counted(len(described['files']), 'file')}" if len(described["files"]) > 1 else ""
        total = f"{counted(len(tensors), 'tensor')}, {human_size(described['size'])}, {described['format']}{several}"
        rows: list[Row] = [(item["name"], item["type"], item["shape"], human_size(item["bytes"])) for item in tensors]
        return _titled(described, total, ("tensor", "type", "shape", "size"), rows)
    if kind == "slices":
        total, headings, rows, after = slices_table(described)
        return "\n".join([_titled(described, total, headings, rows), "", *after])
    if kind == KIND:
        return _titled(described, total_of(described), COLUMNS, rows_of(described))
    if kind == "strategy":
        layouts = described["layouts"]
        operators = counted(len(described["operators"]), "operator")
        total = f"stage {described['stage']}, {operators}, {counted(len(layouts), 'parameter')}"
        shown = (
            "device_matrix",
            "tensor_map",
            "optimizer_shard_size",
            "shards",
            "replicas",
            "field",
            "param_split_shape",
        )
        columns = (
            "parameter",
            "device matrix",
            "tensor map",
            "optimizer",
            "shards",
            "replicas",
            "field",
            "rows by hand",
        )
        rows = [(name, *(layout[key] or "" for key in shown)) for name, layout in layouts.items()]
        return _titled(described, total, columns, rows)
    if kind == "shard set":
        slices = described["slices"]
        total = f"step {described['step']}, epoch {described['epoch']}, {counted(described['world_size'], 'rank')}" + (
            ", every rank whole" if described["integrated"] else ""
        )
        rows = [(item["rank"], item["path"], human_size(item["size"]), item["digest"][:16]) for item in slices]
        return _titled(described, total, ("rank", "file", "size", "BLAKE3"), rows)
    rows = [(item["name"], item["type"], item["shape"], item.get("digest", "")[:16]) for item in described["tensors"]]
    total = f"{[file['name'] for file in described['output']]}, step {described['inputs']['step'] or '?'}"
    return _titled(described, total, ("tensor", "type", "shape", "BLAKE3"), rows)


def _titled(described: dict[str, Any], total: str, columns: Row, rows: Sequence[Row]) -> str:
    return f"{described['file']}: {described['kind']}, {total}\n\n{_table(columns, rows)}"


def _table(columns: Row, rows: Sequence[Row]) -> str:
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a table, or JSON."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` ends it quietly, as it ends any filter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE|DIR")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    try:
        described = describe(parsed.file)
    except (ShardlineError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may be no text, as \\udcff
    print(json.dumps(described, ensure_ascii=False) if parsed.json else render(described))
    return 0
