"""What MLflow, metrics and OpenLineage cost a run, each on and off, taking turns.

    nice -n -19 python -m benchmarks.tracking.overhead [--rounds 5] [--with NAME …] [--parameters '{"epochs": 30}']

A run is prepared, trained, merged, validated and promoted as Airflow's worker does it (`worker`), with nobody told;
then again with one of `listeners.all_listeners` told, in every other round first. The ratio is of such a pair; printed
are medians of the rounds. `mlflow` is a real server, which `make mlflow` installs, on the same cores as the training;
`mlflow-elsewhere` takes everything at once, as a server with cores of its own does.

A step's time is the median over the run's steps. A run's is by the clock, from its first task to the end of the
worker's process, Airflow's imports before it left out.
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
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.tracking.listeners import NAMES, Settings, all_listeners
from benchmarks.training.whole_runs import steps
from scripts.local_airflow import environment, initialise
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT

PARAMETERS = {"world_size": 1, "epochs": 30, "save_checkpoint_steps": 1000, "min_accuracy": 0.0}
WARM_UP_STEPS = 60
DAG = "sharded_training"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--with", dest="names", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--parameters", default="{}", help="RunConfig's, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), PARAMETERS | json.loads(arguments.parameters))
        bench.one_run({})  # fills caches
        pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {name: [] for name in arguments.names}
        for number in range(arguments.rounds):
            for name in arguments.names:
                pairs[name].append(bench.pair(name, is_told_first=number % 2 == 1))
                print(name, *(f"{one['the whole run, s']:.1f} s" for one in pairs[name][-1]), file=sys.stderr)
        for name, found in pairs.items():
            report(name, found)
    return 0


class Bench:
    """Runs of the same parameters, below one SHARDLINE_HOME."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        self._folder, self._numbers = folder, count()
        self._airflow = environment(folder / "airflow", os.environ)
        initialise(folder / "airflow", self._airflow)
        self._parameters = parameters

    def pair(self, name: str, *, is_told_first: bool) -> tuple[dict[str, float], dict[str, float]]:
        """A run with nobody told and one with `name` told, in that order or the other."""
        silent = {} if is_told_first else self.one_run({})
        folder = self._folder / f"listener_{next(self._numbers)}"
        folder.mkdir()
        with all_listeners(folder)[name]() as settings:
            told = self.one_run(settings)
        return silent or self.one_run({}), told

    def one_run(self, settings: Settings) -> dict[str, float]:
        """Milliseconds a step, and seconds of the whole run, of its tasks and of the lineage behind them."""
        home, run_id = Home(self._folder / "shardline"), f"run_{next(self._numbers)}"
        identity = {"SHARDLINE_HOME": str(home.path), "SHARDLINE_DAG_ID": DAG, "SHARDLINE_RUN_ID": run_id}
        # Each of its own model: promoting the same bytes twice promotes nothing.
        given = {"SHARDLINE_PARAMETERS": json.dumps(self._parameters | {"model_name": run_id})}
        command = [sys.executable, "-m", "benchmarks.tracking.worker"]
        log = self._folder / f"{run_id}.log"
        with log.open("w") as errors:
            worker = subprocess.run(
                command,
                cwd=PROJECT,
                env=self._airflow | identity | given | settings,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                check=False,
            )
        ended = time.monotonic()
        if worker.returncode:
            sys.exit(log.read_text())
        (found,) = (json.loads(line) for line in worker.stdout.splitlines() if line.startswith("{"))
        return {
            "ms a step": steps(RunDirectory(home.run(DAG, run_id)), WARM_UP_STEPS)["ms a step"],
            "the whole run, s": ended - found["began"],
            **{f"{task}, s": value for task, value in found["seconds"].items()},
            **{f"lineage of {task}, s": value for task, value in found["lineage"].items()},
        }


def report(name: str, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    """Each figure with nobody told, with `name` told, and by how much the second is more, in percent."""
    print(f"\n{name}, load {os.getloadavg()[0]:.1f}")
    for figure in pairs[0][1]:
        told = statistics.median(second[figure] for _, second in pairs)
        if figure not in pairs[0][0]:
            print(f"{figure:>24} {'':>10} {told:10.3f}")
            continue
        alone = statistics.median(first[figure] for first, _ in pairs)
        more = [100 * (second[figure] / first[figure] - 1) for first, second in pairs]
        spread = f"{statistics.median(more):+6.1f} %   ({min(more):+.1f} to {max(more):+.1f})"
        print(f"{figure:>24} {alone:10.3f} {told:10.3f}   {spread}")


if __name__ == "__main__":
    sys.exit(main())
