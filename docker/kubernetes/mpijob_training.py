"""The pipeline of `sharded_training`, with the training on several hosts of a Kubernetes cluster.

`train` creates an MPIJob, which Kubeflow's mpi-operator carries out, and copies its launcher's log. The cluster's side
of it (images, volumes, cards of a worker) stands in `mpijob.yaml` beside this file, and so do this form's defaults.
The other tasks run where Airflow runs them.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from dags.form import form
from dags.pipeline import DAG_DEFAULTS, pipeline
from plugins.mpijob.manifest import parameters_of, read_manifest
from plugins.mpijob.operator import MPIJobOperator
from shardline.settings.run_config import RunConfig

MANIFEST = Path(__file__).with_name("mpijob.yaml")

TRAIN = """An MPIJob: one launcher, and as many workers as *Cards* need; each rank trains and saves its own slices.

Cleared, failed or timed out, the job is deleted, and the ranks save before they leave; the next try resumes from the
newest complete shard set. Log by rank: `log_output/1/rank.N/stdout`."""

with DAG(
    dag_id="mpijob_training",
    description="Sharded training as an MPIJob → merge → validation → promotion",
    doc_md=__doc__,
    schedule=None,
    params=form(RunConfig, parameters_of(read_manifest(MANIFEST))),
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["shardline", "training", "kubernetes"],
    **DAG_DEFAULTS,
) as dag:
    # Not in the pool `device`: this task's own pod needs no card.
    pipeline(
        train=MPIJobOperator(
            task_id="train",
            manifest=MANIFEST,
            retries=2,
            execution_timeout=timedelta(days=7),
            doc_md=TRAIN,
        )
    )
