"""The plan of a very large merge: `python -m benchmarks.merge.plan [--ranks 1024] [--parameters 10000]`.

Headers only, made synthetically: no file is written or read. Also times the geometry of every tensor, which a merge
works out as it goes. Prints one JSON line: seconds, and peak memory in MB.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np

from shardline.checkpoint.formats.file_index import FileIndex, Schema, TensorHeader
from shardline.checkpoint.formats.output_file import layout_output
from shardline.checkpoint.formats.tensor_types import FLOAT32
from shardline.checkpoint.shards.finding import SliceSet
from shardline.checkpoint.shards.plan import held_slices, plan_merge
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


def _peak_memory_kb() -> int:
    """Of this program alone: what `getrusage` gives outlives exec and counts the parent's."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) if match else 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ranks", type=int, default=1024)
    arguments.add_argument("--parameters", type=int, default=10_000)
    parsed = arguments.parse_args()
    slices, layouts = synthetic(parsed.ranks, parsed.parameters)
    started = time.perf_counter()
    plan = plan_merge(slices, layouts, Selection(), integrated=False)
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
