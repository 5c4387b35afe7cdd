"""What a run directory says at a glance: parameters, data, progress, failures."""

from __future__ import annotations

from typing import Any

from tasks.failure_record import failures_folder
from tasks.run_directory import RunDirectory
from tasks.runs.containment import Contained
from tasks.runs.metrics import Metrics


def read_overview(files: Contained, metrics: Metrics) -> dict[str, Any]:
    """The run's documents; `None` for one that no task has written yet."""
    run = RunDirectory(files.root)
    config = files.document(run.config_file)
    return {
        "config": config,
        "dataset": files.document(run.dataset_file),
        "progress": _progress(metrics, config or {}),
        "train": files.document(run.train_file),
        "promotion": files.document(run.promotion_file),
        "failures": read_failures(files),
    }


def read_failures(files: Contained) -> list[dict[str, Any]]:
    """What stopped tasks whose newest try has not succeeded, the newest first."""
    folder = files.path(failures_folder(RunDirectory(files.root)))
    documents = [files.document(path) for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(filter(None, documents), key=lambda document: float(document.get("time", 0)), reverse=True)


def _progress(metrics: Metrics, config: dict[str, Any]) -> dict[str, Any]:
    """The newest step, and how many there will be; `steps` is `None` until the first epoch has shown it."""
    newest, in_epoch = metrics.last(), metrics.steps_per_epoch()
    epochs = config.get("epochs")
    steps = in_epoch * epochs if in_epoch is not None and isinstance(epochs, int) else None
    return {"step": newest.get("step"), "epoch": newest.get("epoch"), "loss": newest.get("loss"), "steps": steps}
