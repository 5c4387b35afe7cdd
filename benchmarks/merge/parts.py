"""A merge in parts beside one task and `cp`, on one machine: `python -m benchmarks.merge.parts [--size GB]`.

The parts are written at the same time, each by a process of its own, as by that many workers of one host. The inputs
of each contender are in the page cache, its output is flushed to disk. Contenders take turns; prints the median of
each, a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.merge.run import Timed, machine, timed, touch_free_memory, warm
from benchmarks.merge.shard_sets import save

COUNTS = (1, 2, 4)


def copy(source: Path, output: Path) -> list[Timed]:
    """`cp` and fsync of the merged file."""
    return [timed("sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", source, output)]


def merge(shards: Path, strategy: Path, output: Path) -> list[Timed]:
    """The merge as one task."""
    files = ("--shards", shards, "--strategy", strategy, "--output", output)
    return [timed(sys.executable, "-m", "tasks.merge", *files)]


def merge_in_parts(count: int, shards: Path, strategy: Path, output: Path) -> list[Timed]:
    """Plan, all parts at once, commit."""
    module = (sys.executable, "-m", "tasks.merge_parts")
    files = ("--shards", shards, "--strategy", strategy, "--output", output)
    parts = output.with_name("parts")
    parts.write_text("".join(f"{number}/{count}\n" for number in range(1, count + 1)))
    writers = ("xargs", "-a", parts, "-P", str(count), "-I", "PART")
    return [
        timed(*module, "plan", *files),
        timed(*writers, *module, "write", "--output", output, "--part", "PART"),
        timed(*module, "commit", "--output", output),
    ]


def measure(folder: Path, size: int, repeats: int, suffix: str) -> dict[str, list[list[Timed]]]:
    """The steps of every contender in every turn."""
    shards, whole = folder / "shards", folder / "whole" / f"merged{suffix}"
    strategy = save(shards, size, suffix)
    whole.parent.mkdir()
    merge(shards, strategy, whole)
    contenders: dict[str, tuple[Path, Callable[[Path], list[Timed]]]] = {
        "`cp` and fsync": (whole.parent, partial(copy, whole)),
        "`tasks.merge`": (shards, partial(merge, shards, strategy)),
    }
    for count in COUNTS:
        contenders[f"parts: {count}"] = (shards, partial(merge_in_parts, count, shards, strategy))
    steps: dict[str, list[list[Timed]]] = defaultdict(list)
    for _ in range(repeats):
        for name, (inputs, work) in contenders.items():
            output = folder / "output"
            output.mkdir()
            os.sync()
            touch_free_memory(size // 2)
            warm(inputs)
            steps[name].append(work(output / f"merged{suffix}"))
            print(name, *(f"{step.wall:.2f} s, {step.memory:.0f} MB" for step in steps[name][-1]), file=sys.stderr)
            shutil.rmtree(output)
    return steps


def table(steps: dict[str, list[list[Timed]]]) -> str:
    """The turn of each contender that took the median time."""
    lines = [
        "| | plan (s) | write (s) | commit (s) | in all (s) | × `cp` | peak memory (MB) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    walls = {name: [sum(step.wall for step in turn) for turn in turns] for name, turns in steps.items()}
    copied = statistics.median_low(walls["`cp` and fsync"])
    for name, turns in steps.items():
        wall = statistics.median_low(walls[name])
        turn = turns[walls[name].index(wall)]
        each = [f"{step.wall:.1f}" for step in turn] if len(turn) > 1 else [""] * 3
        memory = max(step.memory for step in turn)
        lines.append(f"| {name} | {' | '.join(each)} | {wall:.1f} | {wall / copied:.2f} | {memory:.0f} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--size", type=float, default=8.0, help="GB")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--format", choices=("ckpt", "safetensors"), default="safetensors")
    arguments.add_argument("--folder", type=Path, help="where to put the slices; default: a temporary folder")
    parsed = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        steps = measure(Path(folder), int(parsed.size * 1e9), parsed.repeats, f".{parsed.format}")
    print(f"{parsed.size:g} GB, {machine()}, load average at the end {os.getloadavg()[1]:.1f}\n\n{table(steps)}")


if __name__ == "__main__":
    main()
