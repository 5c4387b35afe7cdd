"""`tasks.merge_parts` on real files of many ranks and tiny slices: `python -m benchmarks.scaling.parts`.

1,024 files of 1,000 and of 10,000 parameters each, merged in two parts, one after the other; and `plan` alone where
every file is a .ckpt, whose headers lie among its payloads. Prints one JSON line for each command, and keeps them in
results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.merge.run import timed
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.safetensors_file import encode_header
from shardline.checkpoint.formats.tensor_types import FLOAT32
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import OperatorStrategy, Strategy, write_strategy

HERE = Path(__file__).parent
SLICE = (1, 2)


def save_safetensors(shards: Path, ranks: int, parameters: int) -> None:
    """Two numbers of every parameter on each rank, no two ranks with the same file."""
    header = encode_header([TensorHeader(name, FLOAT32, SLICE) for name in _names(parameters)], {})
    generator = np.random.default_rng(0)
    for rank in range(ranks):
        payload = generator.random((parameters, *SLICE), dtype=np.float32)
        _path(shards, rank, ".safetensors").write_bytes(header + payload.tobytes())


def save_ckpt(shards: Path, ranks: int, parameters: int) -> None:
    """As above, but all files equal, which a plan doesn't see."""
    first = _path(shards, 0, ".ckpt")
    write_checkpoint({name: np.ones(SLICE, dtype=np.float32) for name in _names(parameters)}, first)
    for rank in range(1, ranks):
        shutil.copyfile(first, _path(shards, rank, ".ckpt"))


def _names(parameters: int) -> list[str]:
    return [f"layers.{number:05d}.weight" for number in range(parameters)]


def _path(shards: Path, rank: int, suffix: str) -> Path:
    path = shards / f"rank_{rank}" / f"tiny-1_1{suffix}"
    path.parent.mkdir(parents=True)
    return path


def measure(*arguments: str) -> dict[str, Any]:
    """Run `python -m tasks.merge_parts` with `arguments`; its wall time, and the peak memory of its processes (MB)."""
    took = timed(sys.executable, "-m", "tasks.merge_parts", *arguments)
    return {"wall": round(took.wall, 2), "peak_memory_mb": round(took.memory)}


def run(folder: Path, suffix: str, ranks: int, parameters: int, steps: list[str]) -> list[dict[str, Any]]:
    """Save a shard set and take `steps` of its merge: `plan`, parts such as `1/2`, `commit`."""
    shards, strategy, output = folder / "shards", folder / "strategy.ckpt", folder / f"merged{suffix}"
    (save_ckpt if suffix == ".ckpt" else save_safetensors)(shards, ranks, parameters)
    layouts = {name: Layout((ranks,), ((0,), ())) for name in _names(parameters)}
    write_strategy(Strategy(0, {"MatMul": OperatorStrategy(0, ((ranks, 1), (1, 1)))}, layouts), strategy)
    rows = []
    for step in steps:
        arguments = {
            "plan": ["plan", "--shards", str(shards), "--strategy", str(strategy), "--output", str(output)],
            "commit": ["commit", "--output", str(output)],
        }.get(step, ["write", "--output", str(output), "--part", step])
        rows.append({"format": suffix, "ranks": ranks, "parameters": parameters, "step": step, **measure(*arguments)})
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ranks", type=int, default=1024)
    arguments.add_argument("--folder", type=Path, help="where to put the slices; default: a temporary folder")
    parsed = arguments.parse_args()
    rows = []
    for suffix, parameters, steps in (
        (".safetensors", 1_000, ["plan", "1/2", "2/2", "commit"]),
        (".safetensors", 10_000, ["plan", "1/2", "2/2", "commit"]),
        (".ckpt", 10_000, ["plan"]),
    ):
        with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
            rows += run(Path(folder), suffix, parsed.ranks, parameters, steps)
    path = HERE / "results.json"
    document = json.loads(path.read_text()) | {"parts": rows, "parts_load_average": os.getloadavg()[1]}
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
