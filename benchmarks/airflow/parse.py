"""How long Airflow takes to parse each DAG file: `python -m benchmarks.airflow.parse`.

As in the DAG processor, each file is parsed in a child of a process that has loaded Airflow but nothing of ours.
Described trainings are copies of the one in docs/own-training.md. Printed are medians, in milliseconds; processor time
is what a busy machine leaves comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.local_airflow import PROJECT, environment

PARSED = [path for path in sorted((PROJECT / "dags").glob("*.py")) if "\nwith DAG(" in path.read_text()]
TRAININGS = PROJECT / "dags" / "trainings.py"
DESCRIBED = (0, 1, 10)


def in_child(work: Callable[[], None]) -> dict[str, float]:
    """Wall and processor seconds of `work`, in a forked child."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as answer:
            result: dict[str, float] = json.load(answer)
        os.waitpid(child, 0)
        return result
    wall, processor = time.perf_counter(), time.process_time()
    work()
    measured = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    with os.fdopen(writer, "w") as answer:
        json.dump(measured, answer)
    os._exit(0)


def parse(file: Path, dags: int = 1) -> None:
    """As the DAG processor does; the file has so many DAGs."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(file)
    assert bag.import_errors == {}
    assert len(bag.dags) == dags


def parse_described(folder: Path, count: int) -> None:
    """Of `count` descriptions."""
    (description,) = re.findall(r"```toml\n(.*?)```", (PROJECT / "docs" / "own-training.md").read_text(), re.DOTALL)
    for number in range(count):
        (folder / f"linear_{number}.toml").write_text(description.replace('"linear"', f'"linear_{number}"', 1))
    os.environ["SHARDLINE_TRAININGS"] = str(folder)
    parse(TRAININGS, count)


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
        print(f"{'':<32} {'wall ms':>8} {'processor ms':>13}")
        works = {file.name: partial(parse, file) for file in PARSED}
        for count in DESCRIBED:
            (folder := Path(home) / f"described_{count}").mkdir()
            works[f"{TRAININGS.name}, {count} described"] = partial(parse_described, folder, count)
        for name, work in works.items():
            times = [in_child(work) for _ in range(repeat)]
            wall, processor = (statistics.median(time[kind] for time in times) for kind in ("wall", "processor"))
            print(f"{name:<32} {wall * 1000:>8.0f} {processor * 1000:>13.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
