"""What `python -m tasks.launch` costs beside a bare mpirun: 8 ranks that do nothing, in turns.

    python -m benchmarks.launch.overhead [REPEATS]

Prints the medians of wall-clock and of processor time, and what the launch adds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from shardline.launch import mpirun
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig

RANKS = 8
NOTHING = "print('{}')\n"


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """The wall-clock and the processor time of `command` with all its children; it must succeed."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def main(repeats: int) -> None:
    launcher = mpirun.find(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, "do_nothing.py")
        module.write_text(NOTHING)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), folder])
        directory = RunDirectory(Path(folder, "run"))
        directory.write_config(RunConfig(world_size=RANKS))
        rank = [sys.executable, "-m", module.stem]
        commands = {
            "bare mpirun": launcher.command(RANKS, rank),
            "tasks.launch": [
                sys.executable,
                "-m",
                "tasks.launch",
                module.stem,
                "--run-directory",
                str(directory.path),
            ],
        }
        rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(repeats)]
    print(f"{launcher.path}, {RANKS} ranks, median of {repeats}: wall-clock and processor seconds")
    medians = {
        name: [statistics.median(measured[name][kind] for measured in rounds) for kind in (0, 1)] for name in commands
    }
    for name, (wall, used) in medians.items():
        print(f"{name:12} {wall:6.2f} {used:6.2f}")
    added = [launch - bare for bare, launch in zip(*medians.values(), strict=True)]
    print(f"{'added':12} {added[0]:6.2f} {added[1]:6.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
