"""Ours beside `cp`, MindSpore's functions and PyTorch's, in one run: `python -m benchmarks.merge.run [--sizes …]`.

Every contender works on the same slices, which are in the page cache, in a process of its own; its wall time,
processor time and peak memory (the sum over its process tree, sampled every 20 ms) are measured from outside. Fast
contenders are repeated, taking turns, and the median run of each is kept.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.merge.contenders import CONTENDERS
from benchmarks.merge.shard_sets import CHECKPOINT2, MINDFORMERS, save

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
REPEATED = ("cp", "shardline")
KINDS = (".ckpt", ".safetensors", MINDFORMERS, CHECKPOINT2)
_TOUCH = """
import mmap, sys
mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
"""


@dataclass(frozen=True)
class Measured:
    """One run of one contender. Seconds; `work` leaves the interpreter's start and the imports out. Memory in MB."""

    contender: str
    size: int
    wall: float
    work: float
    processor: float
    memory: float


def measure(name: str, size: int, shards: Path, strategy: Path, output: Path) -> Measured | None:
    """Run one contender; `None` where it failed, with its last words printed."""
    warm(shards)
    os.sync()
    touch_free_memory(size)
    command = [sys.executable, "-m", "benchmarks.merge.contenders", name, str(shards), str(strategy), str(output)]
    started = time.perf_counter()
    before = os.times()
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = PeakMemory(process.pid)
    out, errors = process.communicate()
    wall, after = time.perf_counter() - started, os.times()
    shutil.rmtree(output, ignore_errors=True)
    if process.returncode:
        print(f"{name}: failed: {errors.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    return Measured(name, size, wall, float(out.splitlines()[-1]), processor, peak.stop() / 1e6)


class PeakMemory:
    """The greatest resident memory of a process and its descendants together."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self._peak = max(self._peak, self._resident())

    def _resident(self) -> int:
        try:
            root = psutil.Process(self._pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            return 0
        return sum(_resident(process) for process in tree)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


@dataclass(frozen=True)
class Timed:
    """What one command took: wall time in seconds; peak resident memory (MB) of all its processes together."""

    wall: float
    memory: float


def timed(*command: str | Path) -> Timed:
    """Run one command in the project's folder, without what it prints; RuntimeError where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], cwd=PROJECT, stdout=subprocess.DEVNULL)
    peak = PeakMemory(process.pid)
    if process.wait():
        raise RuntimeError(f"{' '.join(map(str, command))} failed")
    return Timed(time.perf_counter() - started, peak.stop() / 1e6)


def warm(shards: Path) -> None:
    """Bring the slices into the page cache."""
    for path in [*shards.rglob("*"), shards.parent / "merged.bytes"]:
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                buffer = bytearray(1 << 20)
                while file.readinto(buffer):
                    pass


def touch_free_memory(size: int) -> None:
    """Use and free the memory that the output's pages will lie in.

    Virtual machines hand free memory back to their host, and taking it again costs more than what is measured: without
    this, the same `cp` of 4 GB took from 3 to 12 s.
    """
    subprocess.run([sys.executable, "-c", _TOUCH, str(2 * size)], check=True)


def run_size(size: int, kind: str, options: argparse.Namespace, folder: Path) -> list[Measured]:
    """All contenders that take slices saved so, at one size; beside a layout of MindFormers `cp`, too."""
    shards = folder / "shards"
    strategy = save(shards, size, kind)
    merged = sum(path.stat().st_size for path in shards.rglob("*") if path.is_file())
    with (folder / "merged.bytes").open("wb") as file:
        for _ in range(_merged_size(shards, () if kind == CHECKPOINT2 else (strategy,)) >> 20):
            file.write(os.urandom(1 << 20))
    print(f"{size / 1e9:.2f} GB, {kind}: slices of {merged / 1e9:.2f} GB", file=sys.stderr)
    beside = ("cp + fsync",) if kind in (MINDFORMERS, CHECKPOINT2) else ()
    names = [name for name, (takes, _) in CONTENDERS.items() if takes == kind or name in beside]
    names = [name for name in names if name.startswith(tuple(options.only))]
    if importlib.util.find_spec("torch") is None:
        names = [name for name in names if not name.startswith("torch")]
    results = []
    for turn in range(options.repeats):
        for name in names:
            if turn == 0 or name.startswith(REPEATED):
                measured = measure(name, size, shards, strategy, folder / "output")
                results += [measured] if measured else []
                print(f"  {name}: {measured}", file=sys.stderr)
    return results


def _merged_size(shards: Path, strategies: tuple[Path, ...]) -> int:
    from shardline.checkpoint.merging.request import MergeRequest, prepare

    return prepare(MergeRequest(shards, strategies, shards.parent / "x.ckpt")).plan.bytes_out


def typical(results: list[Measured]) -> list[Measured]:
    """The run of each contender and size whose wall time is the median."""
    runs: dict[tuple[int, str], list[Measured]] = defaultdict(list)
    for row in results:
        runs[row.size, row.contender].append(row)
    return [sorted(rows, key=lambda row: row.wall)[len(rows) // 2] for rows in runs.values()]


def _earlier() -> list[Measured]:
    document = json.loads((HERE / "results.json").read_text())
    return [Measured(**row) for row in document["rows"]]


def machine() -> str:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {psutil.virtual_memory().total >> 30} GiB, Python {platform.python_version()}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sizes", type=float, nargs="+", default=[0.01, 0.3, 1.0, 4.0], help="GB")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--folder", type=Path, help="where to put the slices; default: a temporary folder")
    arguments.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="how the slices are saved")
    arguments.add_argument("--only", nargs="+", default=[""], metavar="PREFIX", help="contenders, by how names begin")
    arguments.add_argument(
        "--add", action="store_true", help="keep the rows of results.json that are not measured again"
    )
    parsed = arguments.parse_args()
    results: list[Measured] = []
    for size in parsed.sizes:
        for kind in parsed.kinds:
            with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
                results += run_size(int(size * 1e9), kind, parsed, Path(folder))
    again = {(row.size, row.contender) for row in results}
    earlier = [row for row in _earlier() if (row.size, row.contender) not in again] if parsed.add else []
    document = {
        "machine": machine(),
        "load_average_at_the_end": os.getloadavg()[1],
        "rows": [asdict(row) for row in earlier + typical(results)],
    }
    (HERE / "results.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
