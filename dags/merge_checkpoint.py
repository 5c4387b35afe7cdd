"""Merges any shard set: of any run, or of a folder from elsewhere, with any option of the merge.

Give *Run* or *Folder of slices*. The result lies in this run's own directory: `merged/`, with its proof beside it,
or `resharded/` where target strategies are given. Nothing of the run that the slices come from changes.

A folder from elsewhere, and its strategy files, must lie in `SHARDLINE_HOME`, or below one of the folders that
`SHARDLINE_ALLOWED_ROOTS` lists in the worker's environment, separated by `:`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from dags.form import form
from dags.pipeline import DAG_DEFAULTS
from plugins.task_operator import TaskOperator
from shardline.settings.merge_config import MergeCheckpointConfig

with DAG(
    dag_id="merge_checkpoint",
    description="Any shard set → one checkpoint, or slices for another strategy",
    doc_md=__doc__,
    schedule=None,
    params=form(MergeCheckpointConfig),
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["shardline", "checkpoint"],
    **DAG_DEFAULTS,
) as dag:
    TaskOperator(
        task_id="merge_checkpoint",
        module="tasks.merge_checkpoint",
        reads_parameters=True,
        execution_timeout=timedelta(hours=6),
        doc_md="Result: the merged file or the folder of slices, with digests. Cleared and run again: the same.",
    )
