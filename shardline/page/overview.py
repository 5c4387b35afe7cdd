"""What a run directory says at a glance: parameters, data, progress, failures."""

from __future__ import annotations

from typing import Any

from shardline.page.containment import Contained
from shardline.page.curves import Curves
from shardline.run.directory import RunDirectory
from shardline.run.failures import failures_folder


def read_overview(files: Contained, metrics: Curves) -> dict[str, Any]:
    """The run's documents; `None` for one that no task has written yet."""
    run = RunDirectory(files.root)
    config = files.document(run.config_file)
    return {
        "config": config,
        "dataset": files.document(run.dataset_file),
        "progress": _progress(files, metrics, config or {}),
        "train": files.document(run.train_file),
        "promotion": files.document(run.promotion_file),
        "failures": read_failures(files),
    }


def read_failures(files: Contained) -> list[dict[str, Any]]:
    """What stopped tasks whose newest try has not succeeded, the newest first."""
    folder = files.path(failures_folder(RunDirectory(files.root)))
    documents = [files.document(path) for path in folder.glob("*.json")] if folder.is_dir() else []
    known = [document for document in documents if document and isinstance(document.get("time"), int | float)]
    return sorted(known, key=lambda document: float(document["time"]), reverse=True)


def _progress(files: Contained, metrics: Curves, config: dict[str, Any]) -> dict[str, Any]:
    """The newest step, how fast rank 0 goes, and how many steps there will be."""
    newest = metrics.last()
    status = files.document(RunDirectory(files.root).rank_log(0).with_name("status.json")) or {}
    steps = status.get("last_step")
    return {name: newest.get(name) for name in ("step", "epoch", "loss")} | {
        "steps": steps if isinstance(steps, int) else _as_the_first_epoch_shows(metrics, config.get("epochs")),
        "steps_per_second": status.get("steps_per_second"),
    }


def _as_the_first_epoch_shows(metrics: Curves, epochs: Any) -> int | None:
    """How many steps there will be, of a run whose ranks do not say so: an earlier Shardline's."""
    in_epoch = metrics.steps_per_epoch()
    return in_epoch * epochs if in_epoch is not None and isinstance(epochs, int) else None
