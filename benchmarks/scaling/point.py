"""What one process spends on understanding one shard set: `python -m benchmarks.scaling.point FOLDER`.

The steps are those of every `tasks.merge`, and of every step of `tasks.merge_parts`, up to the first payload byte.
Prints one JSON line: seconds of each step, peak memory (MB) once it is done, and what the merge would have to move.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from shardline.checkpoint.formats.output_file import layout_output
from shardline.checkpoint.formats.tensor_io import open_all
from shardline.checkpoint.merging.parts import _plan_digest
from shardline.checkpoint.merging.request import MergeRequest, Prepared, read_strategies
from shardline.checkpoint.shards.finding import find_slices
from shardline.checkpoint.shards.held_slices import held_slices
from shardline.checkpoint.shards.plan import Plan, plan_merge
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet

LARGEST_OUTPUT_FILE = 50 * 10**9
MOST_SLICES_DIGESTED = 8_000_000
"""Of more slices the plan's digest would take most of a small machine's memory, and is left out."""


def measure(folder: Path) -> dict[str, Any]:
    """The figures of the shard set that `benchmarks.scaling.model.save` laid out."""
    steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        steps[name] = {"seconds": round(time.perf_counter() - started, 3), "peak_memory_mb": round(_peak_memory())}

    shards = folder / "shards"
    strategies = tuple(sorted(folder.glob("strategy_*.ckpt"), key=lambda path: int(path.stem.partition("_")[2])))
    request = MergeRequest(shards, strategies, folder / "x.safetensors", max_file_size=LARGEST_OUTPUT_FILE)
    with step("strategies"):
        layouts, digests = read_strategies(strategies)
    with step("manifest"):
        ShardSet.newest(shards)
    with step("slices"):  # the manifest once more, every file's size and header
        slices = find_slices(shards, None)
    with step("plan"):
        plan = plan_merge(slices, layouts, Selection(), integrated=False)
    with step("output"):
        headers = [tensor.merged for tensor in plan.tensors]
        files = layout_output(request.output.name, headers, "safetensors", LARGEST_OUTPUT_FILE)
    with step("open"), open_all(slices.files):
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with step("geometry"):
        for tensor in plan.tensors:
            for copy in tensor.copies:
                held_slices(copy, tensor.header.shape)
    moved = _moved(plan, len(files))
    if moved["slices"] <= MOST_SLICES_DIGESTED:
        with step("digest of the plan"):
            _plan_digest(Prepared(request, plan, files, digests))
    manifest = ShardSet.path(shards, 1).stat().st_size
    return {"steps": steps, "descriptors": descriptors, "manifest_bytes": manifest, **moved}


def _moved(plan: Plan, output_files: int) -> dict[str, int]:
    held = [
        (len(copy.holders), prod(copy.layout.slice_shape(tensor.header.shape)) * tensor.header.type.itemsize)
        for tensor in plan.tensors
        for copy in tensor.copies
    ]
    return {
        "tensors": len(plan.tensors),
        "slices": sum(holders for holders, _ in held),
        "header_bytes": sum(int(min(file.offsets, default=0)) for file in plan.slices.files),
        "bytes_in": sum(file.size for file in plan.slices.files),
        "bytes_compared": sum(holders * size for holders, size in held),
        "bytes_out": plan.bytes_out,
        "output_files": output_files,
    }


def _peak_memory() -> float:
    """MB, of this program alone: what `getrusage` gives outlives exec and counts the parent's."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 / 1e6 if match else 0.0


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
