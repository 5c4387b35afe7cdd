"""How long Airflow takes to parse each DAG file: `python -m benchmarks.airflow.parse`.

As in the DAG processor, each file is parsed in a child of a process that has loaded Airflow but nothing of ours.
Printed are medians, in milliseconds; processor time is what a busy machine leaves comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from scripts.local_airflow import PROJECT, environment

PARSED = [path for path in sorted((PROJECT / "dags").glob("*.py")) if "with DAG(" in path.read_text()]


def parse(file: Path) -> dict[str, float]:
    """Wall and processor seconds of one parse, in a forked child."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as answer:
            result: dict[str, float] = json.load(answer)
        os.waitpid(child, 0)
        return result
    from airflow.dag_processing.dagbag import DagBag

    wall, processor = time.perf_counter(), time.process_time()
    bag = DagBag(file)
    measured = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    assert bag.dags
    assert not bag.import_errors
    with os.fdopen(writer, "w") as answer:
        json.dump(measured, answer)
    os._exit(0)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeat", type=int, default=7)
    repeat = arguments.parse_args().repeat
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(environment(Path(home), os.environ) | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"})
        import airflow.dag_processing.dagbag
        import airflow.sdk

        assert airflow.dag_processing.dagbag
        assert airflow.sdk.DAG
        print(f"{'DAG file':<24} {'wall ms':>8} {'processor ms':>13}")
        for file in PARSED:
            times = [parse(file) for _ in range(repeat)]
            wall, processor = (statistics.median(time[kind] for time in times) for kind in ("wall", "processor"))
            print(f"{file.name:<24} {wall * 1000:>8.0f} {processor * 1000:>13.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
