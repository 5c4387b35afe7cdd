"""What a file of a sharded training run holds: a checkpoint, a strategy, a shard set's manifest, a merge's record.

    shardline inspect FILE [--json]

Only headers are read, whatever the file's size.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardline.base.errors import CheckpointError, MissingShard, ShardlineError, UnsupportedFormat
from shardline.base.progress import human_size
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.merging.record import read_record
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.strategy_file import Strategy, read_strategy

Row = Sequence[object]


def describe(path: Path) -> dict[str, Any]:
    """What `path` is and holds: `kind`, totals, and one entry for each thing in it, as JSON values."""
    if path.is_dir():
        raise UnsupportedFormat(f"{path} is a folder; give one of its files")
    if not path.is_file():
        raise MissingShard(f"{path}: there is no such file")
    if path.suffix == ".json":
        return _describe_json(path)
    if path.suffix == ".safetensors":
        return _checkpoint(index_checkpoint(path))
    return _describe_ckpt(path)


def _describe_json(path: Path) -> dict[str, Any]:
    """A strategy, a manifest or a record, told apart by their keys."""
    try:
        keys = set(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsupportedFormat(f"{path} is no JSON object: {error}") from error
    if "slices" in keys:
        shard_set = asdict(ShardSet.read(path))
        return {"kind": "shard set", "file": str(path), **shard_set, "slices": list(shard_set["slices"])}
    if "tensors" in keys:
        return {"kind": "record of a merge", "file": str(path), **read_record(path)}
    return _strategy(read_strategy(path), path)


def _describe_ckpt(path: Path) -> dict[str, Any]:
    """MindSpore gives checkpoints and strategies one suffix: it is whichever can be read."""
    try:
        return _checkpoint(index_checkpoint(path))
    except CheckpointError as no_checkpoint:
        try:
            return _strategy(read_strategy(path), path)
        except CheckpointError:
            raise no_checkpoint from None


def _checkpoint(index: FileIndex) -> dict[str, Any]:
    return {
        "kind": "checkpoint",
        "file": str(index.path),
        "format": index.format,
        "size": index.size,
        "metadata": index.metadata,
        "crc": index.crc,
        "tensors": [
            {
                "name": header.name,
                "type": header.type.name,
                "shape": list(header.shape),
                "bytes": header.size,
                "offset": int(index.offsets[position]),
                "pieces": len(index.extents(position)),
            }
            for position, header in enumerate(index.schema.headers)
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
                "replicas": len(layout.replica_groups()[0]),
            }
            for name, layout in strategy.layouts.items()
        },
    }


def render(described: dict[str, Any]) -> str:
    """`described` as text: a line of totals, and a table."""
    kind = described["kind"]
    if kind == "checkpoint":
        tensors = described["tensors"]
        total = f"{len(tensors)} tensors, {human_size(described['size'])}, {described['format']}"
        rows: list[Row] = [(item["name"], item["type"], item["shape"], human_size(item["bytes"])) for item in tensors]
        return _titled(described, total, ("tensor", "type", "shape", "size"), rows)
    if kind == "strategy":
        layouts = described["layouts"]
        total = f"stage {described['stage']}, {len(described['operators'])} operators, {len(layouts)} parameters"
        columns = ("parameter", "device matrix", "tensor map", "optimizer", "shards", "replicas")
        rows = [(name, *layout.values()) for name, layout in layouts.items()]
        return _titled(described, total, columns, rows)
    if kind == "shard set":
        slices = described["slices"]
        total = f"step {described['step']}, epoch {described['epoch']}, {described['world_size']} ranks" + (
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
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    try:
        described = describe(parsed.file)
    except ShardlineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(described, ensure_ascii=False) if parsed.json else render(described))
    return 0
