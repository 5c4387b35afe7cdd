"""What a folder holds: the ranks' slices of one or several trainings, Checkpoint 2.0, or a whole model in files.

Nothing but names and headers is read, and nothing is changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.errors import ShardlineError, UnsupportedFormat
from shardline.checkpoint.shards.finding import checkpoint_files, left_alone, locate_slices
from shardline.checkpoint.shards.rank_files import UNNUMBERED, Moment
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.shards.trainings import Training, trainings_in, written

Row = Sequence[object]
_MOST_LISTED = 16


def describe_slices(folder: Path) -> dict[str, Any]:
    """The trainings whose ranks saved into `folder`, all their saves, and what a merge would take without options."""
    files = checkpoint_files(folder)
    ranks = frozenset(files)
    described: dict[str, Any] = {
        "kind": "slices",
        "file": str(folder),
        "generation": "rank files, as MindSpore and MindFormers 1.x save them",
        "ranks": len(ranks),
        "manifests": ShardSet.steps(folder),
        "saves": [
            _save(training, moment, ranks) for training in trainings_in(files) for moment in sorted(training.saves)
        ],
        "left_alone": left_alone(folder),
        "taken": [],
        "step": None,
        "notices": [],
        "refused": None,
    }
    try:
        found = locate_slices(folder, None)
    except UnsupportedFormat:
        raise  # these are no slices
    except ShardlineError as error:
        return {**described, "refused": str(error)}
    taken = [str(path.relative_to(folder)) for path in found.files]
    return {**described, "taken": taken, "step": found.step, "notices": list(found.notices)}


def _save(training: Training, moment: Moment, ranks: frozenset[int]) -> dict[str, Any]:
    files = training.saves[moment]
    first = min(files)
    return {
        "prefix": training.prefix,
        "format": training.label.suffix.removeprefix("."),
        "when_training_failed": training.is_breakpoint,
        "step": None if moment == UNNUMBERED else str(moment),
        "name": training.name(moment),
        "ranks": sorted(files),
        "complete": ranks <= files.keys(),
        "written": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(max(written(path) for path in files.values()))),
        "file_of_first_rank": f"{files[first].parent.name}/{files[first].name}",
    }


def slices_table(described: Mapping[str, Any]) -> tuple[str, Row, list[Row], list[str]]:
    """What a person reads of `describe_slices`: totals, the table's columns and rows, and what follows it."""
    columns = ("prefix", "format", "step", "ranks", "written", "file")
    rows: list[Row] = [
        (
            save["prefix"] + (" (training failed)" if save["when_training_failed"] else ""),
            save["format"],
            save["step"] or "-",
            "all" if save["complete"] else _some(save["ranks"]),
            save["written"],
            save["name"],
        )
        for save in described["saves"]
    ]
    after = [f"note: {notice}" for notice in described["notices"]]
    if described["manifests"]:
        after.insert(0, f"manifests of steps {_some(described['manifests'])}")
    if described["left_alone"]:
        after.append(f"left alone: {_some(described['left_alone'])}")
    if described["refused"]:
        after.append(f"a merge takes none of them without more options: {described['refused']}")
    else:
        taken = described["taken"]
        after.append(f"a merge takes {taken[0]} to {taken[-1]}" if len(taken) > 1 else f"a merge takes {taken[0]}")
    return f"{counted(described['ranks'], 'rank')}, {described['generation']}", columns, rows, after


def _some(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:_MOST_LISTED]))
    return shown + (f" and {counted(len(values) - _MOST_LISTED, 'other')}" if len(values) > _MOST_LISTED else "")
