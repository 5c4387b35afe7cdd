"""Whether saving in the background pays: a step that saves, and the steps until the file is there, either way.

    python -m benchmarks.training.saving [--megabytes 400] [--rounds 3]

One process. `save_checkpoint` writes parameters of so many MB, durably, while a loop computes: for how long
does the loop stand still, and how much longer do the steps take that run beside a writing thread or process?
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops, save_checkpoint

STEPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; by default the temporary folder")
    arguments = parser.parse_args()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    cell = Work(arguments.megabytes)
    batch = Tensor(np.ones((256, 512), np.float32))
    cell(batch).asnumpy()
    print(f"{arguments.megabytes} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':>8} {'no save':>9} {'stands still':>13} {f'{STEPS} steps with a save':>22} {'more than without':>18}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for kind in (False, "thread", "process"):
            rounds = [one_round(cell, batch, Path(folder), kind) for _ in range(arguments.rounds)]
            without, still, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
            name = kind or "as now"
            print(f"{name:>8} {without:8.2f}s {still:12.2f}s {whole:21.2f}s {whole - without:17.2f}s", flush=True)


class Work(nn.Cell):
    """A cell that computes for a while and holds `megabytes` of parameters."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.eye(512, dtype=np.float32)), name="weight")
        content = np.zeros((megabytes, 250_000), np.float32)
        self.rest = Parameter(Tensor(content), name="rest")

    def construct(self, x: Any) -> Any:
        for _ in range(30):
            x = ops.relu(ops.matmul(x, self.weight))
        return x


def one_round(cell: Work, batch: Tensor, folder: Path, kind: bool | str) -> tuple[float, float, float]:
    """Seconds of the steps without a save, of standing still for one, and of the steps until it is on disk."""
    without = compute(cell, batch)
    file = folder / "checkpoint.ckpt"
    start = time.perf_counter()
    save_checkpoint(cell, str(file), integrated_save=False, async_save=kind)
    if not kind:
        sync(file)
    still = time.perf_counter() - start
    compute(cell, batch)
    if kind:
        wait_for_writer()
        sync(file)
    whole = time.perf_counter() - start
    file.unlink()
    return without, still, whole


def compute(cell: Work, batch: Tensor) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        cell(batch).asnumpy()
    return time.perf_counter() - start


def wait_for_writer() -> None:
    """Until MindSpore's writing thread or process has ended."""
    from multiprocessing import active_children

    for thread in threading.enumerate():
        if thread.name == "asyn_save_ckpt":
            thread.join()
    for process in active_children():
        process.join()


def sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main()
