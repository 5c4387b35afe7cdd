"""The five tasks and the trigger form that `sharded_training` and `retraining` have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, Context, Param

from plugins.task_operator import TaskOperator
from tasks.config import RunConfig
from tasks.errors import ConfigError

MODEL = Asset("shardline", uri="shardline://model-store", group="model")
"""Emitted by promote alone; `extra` holds the version, the digest, the metric and its value, the path."""

DEVICE_POOL = "device"


def training_slots(environment: Mapping[str, str]) -> int:
    """How many slots of the pool `device` a training takes: all of them, SHARDLINE_DEVICE_SLOTS, 8 by default.

    Airflow fixes a task's slots when it parses the DAG, before any run has chosen its world size; so a training takes
    the whole pool, and the next run's waits for it. `ConfigError` where the setting is no number of cards.
    """
    slots = environment.get("SHARDLINE_DEVICE_SLOTS") or "8"
    if not slots.isdecimal() or int(slots) < 1:
        raise ConfigError(f"SHARDLINE_DEVICE_SLOTS: expected a number of cards, at least 1, found {slots!r}")
    return int(slots)


TASK_DEFAULTS: dict[str, Any] = {
    "owner": "shardline",
    "retries": 1,
    "retry_delay": timedelta(seconds=10),
    # What is nearer to its end goes first: validating one run before training the next.
    "weight_rule": "upstream",
}

PREPARE_DATASET = """Validates the run's parameters, writes `config.json`, and leaves the data as IDX files.

Result: the data's digest and counts. A wrong parameter fails here, at once and without a retry."""

TRAIN = """`mpirun -n WORLD_SIZE`: each rank trains and saves its own slices of the network.

A retry resumes from the newest complete shard set. Log by rank: `log_output/1/rank.N/stdout`."""

MERGE = """The slices of the newest complete shard set, or of *Step to merge*, become one integrated checkpoint.

A pure function of the run directory: **clear this task alone** (Downstream off) to merge again; same slices, same
bytes."""

VALIDATE = """The merged model, unsharded on one device: accuracy, per-class table, confusion matrix.

Fails below *Minimum accuracy*, and where the merged model does not compute what the ranks computed."""

PROMOTE = """The validated model becomes a new version of the model store; `current` moves to it atomically.

Emits the asset `shardline`."""


def parameters(defaults: Mapping[str, Any] | None = None) -> dict[str, Param]:
    """The trigger form: every field of `RunConfig`, in its order; `defaults` replaces some of its default values."""
    form = {}
    for name, schema in RunConfig.form_schema().items():
        default = (defaults or {}).get(name, schema.pop("default"))
        if "description" in schema:
            schema["description_md"] = schema.pop("description")
        form[name] = Param(default, **schema)
    return form


def pipeline() -> None:
    """Add prepare_dataset → train → merge → validate → promote to the DAG whose `with` block this is called in."""
    prepare_dataset = TaskOperator(
        task_id="prepare_dataset",
        module="tasks.prepare_dataset",
        reads_parameters=True,
        retries=2,
        execution_timeout=timedelta(hours=2),
        doc_md=PREPARE_DATASET,
    )
    train = TaskOperator(
        task_id="train",
        module="tasks.launch",
        arguments=("tasks.train",),
        pool=DEVICE_POOL,
        pool_slots=training_slots(os.environ),
        retries=2,
        execution_timeout=timedelta(days=7),
        doc_md=TRAIN,
    )
    merge = TaskOperator(task_id="merge", module="tasks.merge", execution_timeout=timedelta(hours=6), doc_md=MERGE)
    validate = TaskOperator(
        task_id="validate",
        module="tasks.launch",
        arguments=("tasks.validate",),
        pool=DEVICE_POOL,
        execution_timeout=timedelta(hours=2),
        doc_md=VALIDATE,
    )
    promote = TaskOperator(
        task_id="promote",
        module="tasks.promote",
        outlets=[MODEL],
        post_execute=_describe_model,
        execution_timeout=timedelta(hours=1),
        doc_md=PROMOTE,
    )
    prepare_dataset >> train >> merge >> validate >> promote


def _describe_model(context: Context, result: Mapping[str, Any]) -> None:
    """Attach what promote returned to the asset event that its success emits."""
    keys = ("version", "digest", "metric", result["metric"], "path")
    context["outlet_events"][MODEL].extra = {key: result[key] for key in keys}
