"""The plan of a very large merge: `python -m benchmarks.merge.plan [--ranks 1024] [--parameters 10000]`.

Headers only, made synthetically: no file of slices is written or read. With `--checkpoint2` a metadata.json of
MindFormers' Checkpoint 2.0 is, whose reading counts: a model in tensor-parallel groups of eight, each slice saved once.
Also times the geometry of every tensor, which a merge works out as it goes. Prints one JSON line: seconds, and peak
memory in MB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from shardline.checkpoint.formats.checkpoint2 import METADATA, StoredTensor, read_metadata
from shardline.checkpoint.formats.checkpoint2_layout import RankedLayout
from shardline.checkpoint.formats.checkpoint2_storage import StoredSlice, file_name_of
from shardline.checkpoint.formats.checkpoint2_writing import Shard, encode_metadata, savers, weight_of
from shardline.checkpoint.formats.file_index import FileIndex, Schema, TensorHeader
from shardline.checkpoint.formats.output_file import layout_output
from shardline.checkpoint.formats.tensor_types import FLOAT32
from shardline.checkpoint.shards.checkpoint2 import plan_as_described
from shardline.checkpoint.shards.finding import SliceSet
from shardline.checkpoint.shards.held_slices import held_slices
from shardline.checkpoint.shards.plan import Plan, plan_merge
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import StagedLayouts


def synthetic(ranks: int, parameters: int) -> tuple[SliceSet, StagedLayouts]:
    """Slices of `parameters` tensors over `ranks` ranks in eight layouts, as headers."""
    groups = ranks // 8
    layouts = [Layout((groups, 8), tensor_map) for tensor_map in (((0,), ()), ((), (0,)), ((0,), (1,)), ((), ()))]
    layouts += [Layout(layout.device_matrix, layout.tensor_map, 8, -1) for layout in layouts[:2]]
    chosen = {f"layers.{number}.weight": layouts[number % len(layouts)] for number in range(parameters)}
    shape = (8 * groups * 2, 8 * groups * 2)
    headers = [TensorHeader(name, FLOAT32, layout.slice_shape(shape)) for name, layout in chosen.items()]
    sizes = np.array([header.size for header in headers], dtype=np.int64)
    files = []
    for rank in range(ranks):
        # Every rank parses headers of its own; equal ones are then kept once.
        schema = Schema.of([TensorHeader(*header) for header in headers])
        offsets = np.cumsum(sizes) + 64 * np.arange(parameters)
        files.append(FileIndex(Path(f"rank_{rank}/x.ckpt"), int(offsets[-1]), "ckpt", schema, offsets))
    return SliceSet(Path(), tuple(files), "1_1"), StagedLayouts((chosen,), ranks)


def described(ranks: int, parameters: int, folder: Path) -> SliceSet:
    """The same as Checkpoint 2.0, cut by eight or whole: its metadata.json, written to `folder`, and the headers."""
    places = tuple(range(ranks))
    layouts = [RankedLayout(Layout((ranks // 8, 8), tensor_map), places, ("dp", "tp"))
               for tensor_map in (((0,), ()), ((), (0,)), ((), ()))]  # fmt: skip
    tensors, shards = [], []
    for number in range(parameters):
        layout = layouts[number % len(layouts)]
        fragments = layout.layout.shards()
        tensors.append(StoredTensor(f"layers.{number}.weight", FLOAT32, (16, 16), fragments, layout))
        shards += [
            (Shard(tensors[-1].name, place, places[place::8] if max(fragments) > 1 else places), weight_of(tensors[-1]))
            for place in sorted(set(layout.numbers))
        ]
    storage, files = [], []
    shapes = {tensor.name: TensorHeader(tensor.name, FLOAT32, tensor.slice_shape) for tensor in tensors}
    for number, (rank, mine) in enumerate(savers(shards).items()):
        name = file_name_of("bench", "model", number, ranks)
        storage += [(shard, [StoredSlice(name, rank, shard.holders)]) for shard in mine]
        headers = [shapes[shard.tensor] for shard in mine]
        offsets = np.cumsum([header.size for header in headers])
        files.append(FileIndex(folder / name, int(offsets[-1]), "safetensors", Schema.of(headers), offsets, rank=rank))
    with (folder / METADATA).open("wb") as file:
        file.writelines(encode_metadata(tensors, storage))
    return SliceSet(folder, tuple(files), "1")


def _peak_memory_kb() -> int:
    """Of this program alone: what `getrusage` gives outlives exec and counts the parent's."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) if match else 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ranks", type=int, default=1024)
    arguments.add_argument("--parameters", type=int, default=10_000)
    arguments.add_argument("--checkpoint2", action="store_true", help="as MindFormers' Checkpoint 2.0")
    parsed = arguments.parse_args()
    if not parsed.checkpoint2:
        slices, layouts = synthetic(parsed.ranks, parsed.parameters)
        report(parsed, lambda: plan_merge(slices, layouts, Selection(), integrated=False))
        return
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own, so that what it took to make it isn't counted.
        child = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(1, child) as pool:
            files = pool.submit(described, parsed.ranks, parsed.parameters, Path(name)).result()
        report(parsed, lambda: plan_as_described(read_metadata(Path(name) / METADATA), files, Selection()))


def report(parsed: argparse.Namespace, make_plan: Callable[[], Plan]) -> None:
    started = time.perf_counter()
    plan = make_plan()
    layout_output("model.ckpt", [tensor.merged for tensor in plan.tensors], "ckpt")
    planned = time.perf_counter()
    for tensor in plan.tensors:
        for copy in tensor.copies:
            held_slices(copy, tensor.header.shape)
    figures = {
        "ranks": parsed.ranks,
        "parameters": parsed.parameters,
        "plan_seconds": round(planned - started, 2),
        "geometry_seconds": round(time.perf_counter() - planned, 2),
        "peak_memory_mb": round(_peak_memory_kb() / 1024),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
