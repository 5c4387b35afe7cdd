"""How long training stands still for a save, and what it costs the steps beside it: now, and with `save_behind`.

    python -m benchmarks.training.saving [--megabytes 40 400] [--rounds 5] [--folder DIR]

One process, with parameters of so many MB. What `shardline.training.saving` does for each slice file is done here: is
everything finite, `save_checkpoint`, fsync, its digest; either while the loop stands still, or of a snapshot, by a
thread, while it computes. Medians of the rounds, which take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops, save_checkpoint

from shardline.base.digest import file_digest
from shardline.training.behind import Behind
from shardline.training.saving import non_finite
from shardline.training.snapshot import Snapshot

STEPS = 40
PARAMETERS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[40, 400])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; by default the temporary folder")
    arguments = parser.parse_args()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    for megabytes in arguments.megabytes:
        measure(megabytes, arguments.rounds, arguments.folder)


def measure(megabytes: int, rounds: int, folder: Path | None) -> None:
    cell, batch = Work(megabytes), Tensor(np.ones((256, 512), np.float32))
    compute(cell, batch)
    start = time.perf_counter()
    snapshot = Snapshot(cell)
    print(f"\n{megabytes} MB, {os.cpu_count()} cores; the first copy {time.perf_counter() - start:.2f} s")
    print(f"{'':>8} {'stands still':>13} {f'{STEPS} steps':>9} {'with a save':>12} {'load':>6}")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        file = Path(name, "checkpoint.ckpt")
        found = [[one_round(cell, batch, file, each) for each in (None, snapshot)] for _ in range(rounds)]
    for kind, kinds in zip(("now", "behind"), zip(*found, strict=True), strict=True):
        still, without, whole = (statistics.median(column) for column in zip(*kinds, strict=True))
        print(f"{kind:>8} {still:12.3f}s {without:8.2f}s {whole:11.2f}s {os.getloadavg()[0]:6.1f}", flush=True)


class Work(nn.Cell):
    """A cell that computes for a while and holds `megabytes` of parameters."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.eye(512, dtype=np.float32)), name="weight")
        rows = megabytes * 1000 // 4 // PARAMETERS
        rest = (Tensor(np.zeros((rows, 1000), np.float32)) for _ in range(PARAMETERS))
        self.rest = ParameterTuple([Parameter(tensor, name=f"rest{i}") for i, tensor in enumerate(rest)])

    def construct(self, x: Any) -> Any:
        for _ in range(30):
            x = ops.relu(ops.matmul(x, self.weight))
        return x


def one_round(cell: Work, batch: Tensor, file: Path, snapshot: Snapshot | None) -> tuple[float, float, float]:
    """Seconds of standing still for a save, of the steps without one, and of both until the file is there."""
    without, behind = compute(cell, batch), Behind()
    start = time.perf_counter()
    if snapshot is None:
        write(list(cell.get_parameters()), file, cell)
    else:
        copies = snapshot.take(cell)
        behind.begin(lambda: write(copies, file, [copy.to_save() for copy in copies]))
    still = time.perf_counter() - start
    compute(cell, batch)
    behind.finish()
    whole = time.perf_counter() - start
    file.unlink()
    return still, without, whole


def compute(cell: Work, batch: Tensor) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        cell(batch).asnumpy()
    return time.perf_counter() - start


def write(parameters: Sequence[Any], file: Path, content: Any) -> None:
    """What saving a rank's slices takes."""
    assert not non_finite(parameters)
    save_checkpoint(content, str(file), integrated_save=False)
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    file_digest(file)


if __name__ == "__main__":
    main()
