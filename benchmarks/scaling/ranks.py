"""What one process does for every rank of a training, besides training: `python -m benchmarks.scaling.ranks`.

For up to 10,000 ranks, with files on a local disk: one look of the supervisor at all ranks (it takes two a second), one
exchange of receipts on one rank (every rank makes it, when a training starts or resumes and when it ends), and the
choice of who saves which slice (`remove_redundancy`; every rank makes it, at each save). Kept in results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.scaling.model import Model
from shardline.base import atomic
from shardline.launch.records import rank_folder
from shardline.training.receipts import Receipts
from shardline.training.redundancy import saved_by

HERE = Path(__file__).parent
MODELS = (
    Model(8, 8, 1, width=4096, layers=48),
    Model(128, 8, 1, width=12_288, layers=96, vocabulary=131_072),
    Model(1250, 8, 1, width=30_000, layers=90, vocabulary=130_000),
)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 4)


def look(folder: Path, ranks: int) -> float:
    """The supervisor's look at ranks that all run."""
    folders = [rank_folder(folder, rank) for rank in range(ranks)]
    return seconds(lambda: all(rank.has_left_well() for rank in folders) or any(r.read_failure() for r in folders))


def exchange(folder: Path, ranks: int) -> float:
    """One rank's exchange, the last of all: nobody is waited for."""
    for rank in range(1, ranks):
        atomic.write_text(folder / ".receipts" / "start" / f"rank_{rank}.json", json.dumps({"step": 100}))
    return seconds(lambda: Receipts(folder).exchange("start", 0, ranks, {"step": 100}))


def choice(model: Model) -> float:
    """One rank's choice of the slices that it saves."""
    parameters = model.stage(0)
    layouts = {name: layout for name, _, _, layout in parameters}
    sizes = {name: prod(layout.slice_shape(shape)) * kind.itemsize for name, shape, kind, layout in parameters}
    return seconds(lambda: saved_by(0, sizes, layouts))


def measure(model: Model, folder: Path) -> dict[str, Any]:
    ranks = model.cards
    tensors = len(model.stage(0))
    figures = {"supervisor_look": look(folder, ranks), "exchange": exchange(folder, ranks), "choice": choice(model)}
    return {"ranks": ranks, "tensors": tensors, **figures}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, help="where to put the files; default: a temporary folder")
    parsed = arguments.parse_args()
    rows = []
    for model in MODELS:
        with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
            rows.append(measure(model, Path(folder)))
            print(json.dumps(rows[-1]), file=sys.stderr)
    path = HERE / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ranks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
