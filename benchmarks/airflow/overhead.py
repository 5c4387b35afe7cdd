"""What Airflow adds to a run: `python -m benchmarks.airflow.overhead [--runs N] [--compose EXECUTOR]`.

Starts Airflow as `make ui` does, with a home of its own, or the services of docker/compose.yaml without Docker (with
`--compose`; takes what `make celery` takes), and triggers runs of `sharded_training` one after the other, each a second
of training on one rank. From Airflow's records, in seconds:

* of a task: from its start to its end, less what the task's own process took;
* between tasks: from the end of one to the start of the next;
* of a run: from its start to its end, less what all tasks' own processes took.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from scripts import ui
from tests.airflow.conftest import free_port, start_ui
from tests.airflow.rest import Api
from tests.docker.composed import SECRETS, running

DAG = "sharded_training"
CHAIN = ("prepare_dataset", "train", "merge", "validate", "approve", "promote")
LAST = ("upload", "export")
"""Both follow `promote`, at once."""
TASKS = (*CHAIN, *LAST)
SMALL = {"world_size": 1, "epochs": 1, "batch_size": 512, "min_accuracy": 0.0}


@contextmanager
def local_ui(folder: Path) -> Iterator[Api]:
    """`make ui`: LocalExecutor on SQLite."""
    home, port = folder / "airflow", free_port()
    server = start_ui(home, port, SHARDLINE_HOME=str(folder / "shardline"))
    try:
        yield Api(f"http://{ui.ADDRESS}:{port}", ui.USER, ui.password(home))
    finally:
        server.terminate()
        server.wait()


@contextmanager
def composed(folder: Path, executor: str) -> Iterator[Api]:
    """The services of docker/compose.yaml, on PostgreSQL; LocalExecutor takes no workers."""
    workers = ("worker-cpu", "worker-device") if executor == "CeleryExecutor" else ()
    settings = {"AIRFLOW__CORE__EXECUTOR": executor, "AIRFLOW__CORE__PARALLELISM": "4"}
    with running(folder, workers, settings) as stack:
        yield Api(stack.address, "admin", SECRETS["AIRFLOW_PASSWORD"])


def seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def own_seconds(api: Api, run_id: str, task: dict[str, Any]) -> float:
    """From the start to the end of the task's own process, as the operator logged them."""
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
    times = {
        str(line["event"]).split(":")[0].split(" with ")[0]: line["timestamp"]
        for line in api.get(path)["content"]
        if line.get("timestamp")
    }
    return seconds(times["Running command"], times["Command exited"]) if "Command exited" in times else 0.0


def measure(api: Api, run_id: str) -> dict[str, Any]:
    """The overhead of one finished run."""
    tasks = api.tasks(DAG, run_id)
    run = api.get(f"/dags/{DAG}/dagRuns/{run_id}")
    own = {task_id: own_seconds(api, run_id, tasks[task_id]) for task_id in TASKS}
    return {
        "task": {
            task_id: seconds(tasks[task_id]["start_date"], tasks[task_id]["end_date"]) - own[task_id]
            for task_id in TASKS
        },
        "between": [
            seconds(tasks[first]["end_date"], tasks[second]["start_date"])
            for first, second in (*pairwise(CHAIN), *product(CHAIN[-1:], LAST))
        ],
        "run": seconds(run["start_date"], run["end_date"]) - sum(own.values()),
        "own": sum(own.values()),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--compose", choices=("LocalExecutor", "CeleryExecutor"))
    parsed = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with composed(folder, parsed.compose) if parsed.compose else local_ui(folder) as api:
            api.wait_for_dags({DAG})
            api.patch(f"/dags/{DAG}", is_paused=False)
            measured = []
            for seed in range(parsed.runs):
                run_id = api.trigger(DAG, SMALL | {"seed": seed})
                assert api.wait_for_run(DAG, run_id) == "success"
                measured.append(measure(api, run_id))
    for task_id in TASKS:
        print(f"{task_id:<20} {statistics.median(one['task'][task_id] for one in measured):6.2f} s")
    print(f"{'between two tasks':<20} {statistics.median(gap for one in measured for gap in one['between']):6.2f} s")
    print(f"{'a run':<20} {statistics.median(one['run'] for one in measured):6.2f} s", end="")
    print(f", besides {statistics.median(one['own'] for one in measured):.1f} s of its tasks' own processes")
    print(f"load {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
