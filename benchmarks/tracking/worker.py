"""One run's tasks as Airflow's worker runs them: a process each, metrics by a thread of this one, lineage behind each.

    python -m benchmarks.tracking.worker

The environment is a task's (SHARDLINE_HOME, SHARDLINE_DAG_ID, SHARDLINE_RUN_ID, SHARDLINE_PARAMETERS) and whatever
names who is told. Prints a JSON object: when the run began, so that what this process does at its end counts as well,
such as sending the last metrics; seconds by the clock, of each task, and of our part of OpenLineage behind each, where
it has a transport. The first of these imports its client.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time

from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils

from plugins.training_metrics import reported
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT, home_from

TASKS = {
    "prepare_dataset": ("tasks.prepare_dataset",),
    "train": ("tasks.launch", "tasks.train"),
    "merge": ("tasks.merge",),
    "validate": ("tasks.launch", "tasks.validate"),
    "promote": ("tasks.promote",),
}


def main() -> int:
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
    home = home_from(os.environ)
    run = RunDirectory(home.run(os.environ["SHARDLINE_DAG_ID"], os.environ["SHARDLINE_RUN_ID"]))
    tells_lineage = bool(conf.get("openlineage", "transport", fallback=""))
    began = time.monotonic()
    seconds, lineage = {}, {}
    for task, module in TASKS.items():
        start = time.perf_counter()
        if task == "train":
            with reported(run, home, os.environ["SHARDLINE_DAG_ID"], logging.getLogger("metrics")):
                run_task(task, module)
        else:
            run_task(task, module)
        seconds[task] = time.perf_counter() - start
        if tells_lineage:
            lineage[task] = tell_lineage(task, run, home)
    print(json.dumps({"began": began, "seconds": seconds, "lineage": lineage}), flush=True)
    return 0


def run_task(task: str, module: tuple[str, ...]) -> None:
    environment = os.environ | {"SHARDLINE_TASK_ID": task}
    subprocess.run([sys.executable, "-m", *module], cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)


def tell_lineage(task: str, run: RunDirectory, home: Home) -> float:
    """Seconds that it takes to say what the task read and wrote; sending it is the provider's."""
    start = time.perf_counter()
    from plugins.lineage_facets import operator_lineage

    assert operator_lineage(task, run, home, os.environ, has_succeeded=True).run_facets
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
