"""What training costs: whole runs through the launcher, at several numbers of ranks, beside a plain MindSpore script.

    python -m benchmarks.training.whole_runs [--ranks 1 4 8] [--rounds 3] [--parameters '{"epochs": 2}'] [--plain]
                                            [--communication]

Everything is read from what a run leaves: seconds by phase (`train.json`), milliseconds a step (`metrics.jsonl`, the
median over the steps), the share of the steps in collectives and the memory of each rank (`status.json`), bytes of
parameters and optimizer states that a rank holds (its slice file), and seconds a shard set took to save. `--plain`: a
plain, unsharded MindSpore script takes turns with the runs, so that both meet the same load (the network mlp only).
`--communication`: so does the same training with collectives that do nothing (`without_collectives`); what it takes
less is communication: sending, summing, and waiting for each other.

The phases are rank 0's. `start_barrier` is its wait for the slowest rank to import, join and compile; `outside` is what
no phase covers: mpirun's start and end, Python's start, the ranks' exit.
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
from typing import Any

from benchmarks.training.plain_copies import plain_settings
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory

PROJECT = Path(__file__).parents[2]
FEW_STEPS, MANY_STEPS = 20, 420
SKIPPED_STEPS = 5
"""The first ones allocate memory and compile what is left to compile."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parameters", default="{}", help="RunConfig's, as JSON")
    parser.add_argument("--plain", action="store_true", help="time a plain MindSpore script too")
    parser.add_argument("--communication", action="store_true", help="time the same training without collectives too")
    arguments = parser.parse_args()
    print(f"{arguments.parameters}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as home:
        for ranks in arguments.ranks:
            parameters = json.loads(arguments.parameters) | {"world_size": ranks}
            rounds = [one_round(Path(home), parameters, arguments) for _ in range(arguments.rounds)]
            print(f"\n{ranks} ranks, load {os.getloadavg()[0]:.1f}")
            for name in rounds[0]:
                values = [found[name] for found in rounds]
                print(f"{name:>38} {statistics.median(values):10.3f}   ({min(values):.3f} to {max(values):.3f})")


def one_round(home: Path, parameters: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, float]:
    """One training from nothing, and those that it is compared with."""
    run, whole = one_run(home, parameters, "tasks.train")
    found = phases(run, whole) | steps(run) | memory(run)
    if arguments.plain:
        milliseconds = plain_milliseconds(run)
        found |= {"plain script, ms a step": milliseconds, "times as long": found["ms a step"] / milliseconds}
    if arguments.communication and parameters["world_size"] > 1:
        alone, _ = one_run(home, parameters, "benchmarks.training.without_collectives")
        milliseconds = steps(alone)["ms a step"]
        share = 1 - milliseconds / found["ms a step"]
        found |= {"without collectives, ms a step": milliseconds, "communication, % of a step": 100 * share}
    return found


def one_run(home: Path, parameters: Mapping[str, Any], module: str) -> tuple[RunDirectory, float]:
    """A training of `module` by the launcher, and the seconds that it took."""
    run = RunDirectory(home / f"run_{len(list(home.iterdir()))}")
    environment = os.environ | {"SHARDLINE_HOME": str(home), "SHARDLINE_PARAMETERS": json.dumps(parameters)}
    task("tasks.prepare_dataset", run, environment)
    start = time.perf_counter()
    task("tasks.launch", run, environment, module)
    return run, time.perf_counter() - start


def phases(run: RunDirectory, whole: float) -> dict[str, float]:
    """Seconds by phase, and of each shard set."""
    seconds: dict[str, float] = json.loads(run.train_file.read_text())["phases"]
    config = run.read_config()
    last = ShardSet.steps(run.checkpoints)[-1]
    sets = -(-last // config.save_checkpoint_steps)
    named = {f"{name}, s": value for name, value in seconds.items()}
    return named | {
        "outside, s": whole - sum(seconds.values()),
        "whole, s": whole,
        "a shard set, ms": 1000 * seconds["save"] / sets,
    }


def steps(run: RunDirectory, skipped: int = SKIPPED_STEPS) -> dict[str, float]:
    """Milliseconds a step, median and mean, and how much of it is in collectives, by the mean of the ranks."""
    records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    batch = run.read_config().batch_size
    taken_ms = [1000 * batch / record["samples_per_second"] for record in records if "step" in record][skipped:]
    taken = [status.get("collectives_seconds", 0.0) for status in statuses(run)]
    in_steps = json.loads(run.train_file.read_text())["phases"]["steps"]
    return {
        "ms a step": statistics.median(taken_ms),
        "ms a step, mean": statistics.mean(taken_ms),
        "in collectives, % of steps": 100 * statistics.mean(taken) / in_steps,
    }


def memory(run: RunDirectory) -> dict[str, float]:
    """MB of parameters and states of one rank, as the shard set has them, and of its process."""
    newest = ShardSet.newest(run.checkpoints)
    held = [item.size / 1e6 for item in newest.slices] if newest else [0.0]
    peaks = [status["peak_memory_bytes"] / 1e6 for status in statuses(run)]
    return {"slices of a rank, MB": max(held), "peak memory of a rank, MB": max(peaks)}


def statuses(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(run.rank_status(rank).read_text()) for rank in range(run.read_config().world_size)]


def plain_milliseconds(run: RunDirectory) -> float:
    """Milliseconds a step of the plain script, with the run's optimizer and batch size.

    Two trainings that differ in their number of steps: what they take besides, compiling above all, cancels out.
    """
    config = run.read_config()
    settings = plain_settings(config)
    numbers = (FEW_STEPS, FEW_STEPS, MANY_STEPS)  # the first one also warms up
    file = run.path / "plain.json"
    file.write_text(json.dumps([settings | {"name": f"run{n}", "steps": steps} for n, steps in enumerate(numbers)]))
    command = [sys.executable, "-m", "tests.plain_training", str(file), str(run.path / "plain.npz")]
    output = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    rates = [float(line.split()[1]) for line in output.splitlines() if line.startswith("run")]
    few, many = (steps / rate for steps, rate in zip(numbers[1:], rates[1:], strict=True))
    return 1000 * (many - few) / (MANY_STEPS - FEW_STEPS)


def task(module: str, run: RunDirectory, environment: Mapping[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments, "--run-directory", str(run.path)]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
