"""How much of the processor telling takes, in milliseconds: `python -m benchmarks.tracking.parts [--repeat 7]`.

What each takes of its thread, beside ranks that need the cores; unlike the clock, a busy machine leaves it comparable.
Told is of a run of 1,000 steps, of four numbers each; servers that take everything run in threads of this process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.run_page.synthetic_run import Size, write_run
from benchmarks.tracking.listeners import LikeMLflow, accepting, mlflow_settings, statsd, statsd_settings
from scripts.local_airflow import environment
from shardline.run import tracking
from shardline.run.directory import Home, RunDirectory
from shardline.tracking.mlflow_server import MLflowServer
from shardline.tracking.sent import read_sent, write_sent

STEPS = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder, accepting(LikeMLflow) as mlflow_port, statsd() as statsd_port:
        home = Home(Path(folder))
        run = write_run(home.run("dag", "run"), Size(steps=STEPS, parameters=1, log_lines=1))
        told = mlflow_settings(mlflow_port) | statsd_settings(statsd_port)
        os.environ.update(environment(Path(folder) / "airflow", os.environ) | told)
        # Airflow reads where its home is when it is imported.
        from airflow.sdk.observability import stats
        from airflow.sdk.observability.metrics import stats_utils

        from plugins.training_metrics import Report

        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
        server = MLflowServer.of(os.environ)
        assert server is not None
        report = Report(run, home, "dag")
        report.send()
        measured: dict[str, Callable[[], None]] = {
            f"MLflow: {STEPS} steps, all else as it was": partial(tell_steps, run, home, server),
            "MLflow: a look that finds nothing new": partial(tell_mlflow, run, home, server),
            f"metrics: a report, {STEPS} new steps": partial(report_steps, run, report),
            "OpenLineage: what train read and wrote": partial(tell_lineage, run, home),
        }
        for name, work in measured.items():
            work()
            print(f"{name:<44} {statistics.median(milliseconds(work) for _ in range(repeat)):8.2f}")
    return 0


def milliseconds(work: Callable[[], None]) -> float:
    start = time.thread_time()
    work()
    return 1000 * (time.thread_time() - start)


def tell_mlflow(run: RunDirectory, home: Home, server: MLflowServer) -> None:
    assert not tracking._update(run, home, server, "RUNNING")


def tell_steps(run: RunDirectory, home: Home, server: MLflowServer) -> None:
    sent = read_sent(run.path / "mlflow.json", server.uri)
    sent.offset = sent.last_step = sent.batch_end = sent.batch_time = 0
    write_sent(run.path / "mlflow.json", sent)
    tell_mlflow(run, home, server)


def report_steps(run: RunDirectory, report: Any) -> None:
    """The file is another one, as when a try resumes: all of it is new."""
    again = run.path / "again"
    shutil.copyfile(run.metrics_file, again)
    again.replace(run.metrics_file)
    report.send()


def tell_lineage(run: RunDirectory, home: Home) -> None:
    from plugins.lineage_facets import operator_lineage

    assert operator_lineage("train", run, home, os.environ, has_succeeded=True).outputs


if __name__ == "__main__":
    sys.exit(main())
