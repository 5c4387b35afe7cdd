"""The planner on shard sets of up to 10,000 cards and 10^12 parameters: `python -m benchmarks.scaling.run`.

Each point is a process of its own on headers, manifest and strategies as training would leave them; see `model`.
Writes results.json; `python -m benchmarks.scaling.report` makes the tables of the README from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.merge.run import machine
from benchmarks.scaling.model import Model, save

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
LADDER = (
    Model(2, 4, 1, width=2048, layers=20),
    Model(8, 8, 1, width=4096, layers=48),
    Model(8, 8, 8, width=10_240, layers=80),
    Model(16, 8, 8, width=12_288, layers=96),
    Model(128, 8, 1, width=12_288, layers=96, vocabulary=131_072),
    Model(32, 8, 16, width=20_480, layers=112),
    Model(125, 8, 10, width=25_000, layers=140),
    Model(1250, 8, 1, width=30_000, layers=90, vocabulary=130_000),
)


def run(model: Model, keeps_replicas: bool, folder: Path | None) -> dict[str, Any]:
    """Lay out one shard set, let a process of its own measure what it takes, and remove it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        save(Path(place), model, keeps_replicas=keeps_replicas)
        started = time.perf_counter()
        point = subprocess.run(
            [sys.executable, "-m", "benchmarks.scaling.point", place], cwd=PROJECT, stdout=subprocess.PIPE, check=True
        )
        wall = time.perf_counter() - started
    described = {
        **asdict(model),
        "cards": model.cards,
        "parameters": model.parameters,
        "keeps_replicas": keeps_replicas,
    }
    return {**described, "wall": round(wall, 2), **json.loads(point.stdout)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cards", type=int, default=10_000, help="leave larger points out")
    arguments.add_argument("--folder", type=Path, help="where to put the headers; default: a temporary folder")
    parsed = arguments.parse_args()
    points: list[dict[str, Any]] = []
    for model in LADDER:
        for keeps_replicas in (True, False) if model.cards <= parsed.cards else ():
            points.append(run(model, keeps_replicas, parsed.folder))
            print(json.dumps(points[-1]), file=sys.stderr)
    earlier = json.loads((HERE / "results.json").read_text()) if (HERE / "results.json").is_file() else {}
    document = {**earlier, "machine": machine(), "load_average_at_the_end": os.getloadavg()[1], "points": points}
    (HERE / "results.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
