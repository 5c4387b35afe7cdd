"""The eight tasks that `sharded_training`, `retraining` and described trainings have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, BaseOperator, Context

from dags import notices
from dags.merging import merge_workers, merging
from plugins.approval import ApprovalIfAsked
from plugins.export import ExportIfAsked
from plugins.task_operator import TaskOperator
from plugins.training_operator import TrainingOperator
from plugins.upload import UploadIfAsked

# A scheme of one's own begins with `x-`: for any other, Airflow imports what providers know of theirs, 0.15 s a parse.
MODEL = Asset("shardline", uri="x-shardline://model-store", group="model")
"""Emitted by promote alone; `extra` holds the version, the digest, the metric's value and the path."""

DATASET = Asset("shardline-dataset", uri="x-shardline://dataset", group="dataset")
"""Updated by whoever delivers new data, through Airflow's API or its user interface; `retraining` may listen to it."""

DEVICE_POOL = "device"
"""Slots for tasks that hold cards or wait for them: which cards, and how many, is agreed by
`shardline.launch.card_leases`."""

DEVICE_QUEUE = "device"
"""The workers that have cards, where an executor has queues; all other tasks are in its default queue."""

TASK_DEFAULTS: dict[str, Any] = {
    "owner": "shardline",
    "retries": 1,
    "retry_delay": timedelta(seconds=10),
    # What is nearer to its end goes first: validating one run before training the next.
    "weight_rule": "upstream",
} | notices.of_tasks(os.environ)

DAG_DEFAULTS: dict[str, Any] = {"default_args": TASK_DEFAULTS} | notices.of_runs(os.environ)

PREPARE_DATASET = """Validates the run's parameters, writes `config.json`, and prepares the data.

Result: the data's digest and counts. A wrong parameter fails here, at once and without a retry."""

TRAIN = """`mpirun -n WORLD_SIZE`: each rank trains and saves its own slices of the network.

Waits until enough cards are free, and says which runs hold them. A retry resumes from the newest complete shard set.
Log by rank: `log_output/1/rank.N/stdout`."""

VALIDATE = """The merged model, unsharded on one device, on the data that training held out.

Fails where it is not good enough, and where the merged model does not compute what the ranks computed."""

APPROVE = """Waits for a person to approve or reject the model, where *Approval* is on; skipped where it is off.

Rejected, promote is skipped."""

PROMOTE = """The validated model becomes a new version of the model store; `current` moves to it atomically.

Emits the asset `shardline`. Skipped where the model is worse than the current one by more than *Champion margin*."""

UPLOAD = """The version that promote made, copied to *Upload to*; skipped where that is empty, or nothing was promoted.

Every file is read back and its digest checked. Nothing there is overwritten; cleared and run again, it sends only what
is not there yet."""


EXPORT = """The version that promote made, as a folder that Hugging Face's `transformers` loads; skipped where
*Hugging Face export* is empty, or nothing was promoted.

`HOME/models/NAME/exports/VERSION`, with `export.json`: of which version it is, and what was proved of it."""


def pipeline(
    train: BaseOperator | None = None,
    prepare: tuple[str, ...] = ("tasks.prepare_dataset",),
    about: str = PREPARE_DATASET,
) -> None:
    """Add prepare_dataset → train → merge → validate → approve → promote → upload, export to the DAG of this `with`
    block.

    `train` stands in for the task of that name, which trains on the hosts of the hostfile, or on the worker's own.
    `prepare` is what prepare_dataset runs, a module and its arguments, which is described by `about`.
    """
    prepare_dataset = TaskOperator(
        task_id="prepare_dataset",
        module=prepare[0],
        arguments=prepare[1:],
        reads_parameters=True,
        retries=2,
        execution_timeout=timedelta(hours=2),
        doc_md=about,
    )
    train = train or TrainingOperator(
        task_id="train",
        module="tasks.launch",
        arguments=("tasks.train",),
        pool=DEVICE_POOL,
        queue=DEVICE_QUEUE,
        retries=2,
        execution_timeout=timedelta(days=7),
        doc_md=TRAIN,
    )
    merge = merging(merge_workers(os.environ))
    validate = TaskOperator(
        task_id="validate",
        module="tasks.launch",
        arguments=("tasks.validate",),
        pool=DEVICE_POOL,
        queue=DEVICE_QUEUE,
        execution_timeout=timedelta(hours=2),
        doc_md=VALIDATE,
    )
    approve = ApprovalIfAsked(task_id="approve", doc_md=APPROVE)
    promote = TaskOperator(
        task_id="promote",
        module="tasks.promote",
        outlets=[MODEL],
        post_execute=_describe_model,
        trigger_rule="none_failed",  # approve is skipped where nobody wants to be asked
        execution_timeout=timedelta(hours=1),
        doc_md=PROMOTE,
        **notices.of_promotion(os.environ),
    )
    upload = UploadIfAsked(task_id="upload", execution_timeout=timedelta(hours=6), doc_md=UPLOAD)
    export = ExportIfAsked(task_id="export", execution_timeout=timedelta(hours=6), doc_md=EXPORT)
    prepare_dataset >> train >> merge >> validate >> approve >> promote >> [upload, export]


def _describe_model(context: Context, result: Mapping[str, Any]) -> None:
    """Attach what promote returned to the asset event that its success emits."""
    context["outlet_events"][MODEL].extra = dict(result)
