"""Where the time of the task train goes: a whole run through the launcher, phase by phase.

    python -m benchmarks.training.phases [--parameters '{"world_size": 8}'] [--rounds 3]

The phases are rank 0's (`train.json`). `start_barrier` is its wait for the slowest rank to import, join and compile;
`outside` is what no phase covers: mpirun's start and end, Python's start, the ranks' exit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", default="{}", help="RunConfig's, as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{arguments.parameters}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as home:
        rounds = [one_run(Path(home), number, arguments.parameters) for number in range(arguments.rounds)]
    for phase in rounds[0]:
        seconds = [found[phase] for found in rounds]
        print(f"{phase:>14} {statistics.median(seconds):7.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")


def one_run(home: Path, number: int, parameters: str) -> dict[str, float]:
    """Seconds by phase of one training run, from nothing."""
    run = home / f"run_{number}"
    environment = os.environ | {"SHARDLINE_HOME": str(home), "SHARDLINE_PARAMETERS": parameters}
    task("tasks.prepare_dataset", run, environment)
    start = time.perf_counter()
    task("tasks.launch", run, environment, "tasks.train")
    whole = time.perf_counter() - start
    phases: dict[str, float] = json.loads((run / "train.json").read_text())["phases"]
    return phases | {"outside": whole - sum(phases.values()), "whole": whole}


def task(module: str, run: Path, environment: Mapping[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments, "--run-directory", str(run)]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
