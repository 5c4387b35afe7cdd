"""Frees the disk space that the slices of old runs take.

| task | does |
|---|---|
| `plan` | says what can be freed, with sizes, and frees nothing |
| `finished` | leaves out the runs that Airflow has not finished, all while a run that may read them is queued |
| `free` | frees the rest, unless *Dry run* is on |

Kept are each DAG's newest runs, the runs that `current` models came from, every run in use, all promoted versions, and
everything small: reports, logs, metrics. The DAG is created paused; `SHARDLINE_HOUSEKEEPING_CRON` (UTC) sets when it
runs, Sundays at 4:00 by default.
"""

from __future__ import annotations

import os
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowRuntimeError

from dags.form import form
from dags.pipeline import DAG_DEFAULTS
from dags.schedule import timetable
from plugins.task_operator import TaskOperator
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.trainings import trainings_of

CRON = "SHARDLINE_HOUSEKEEPING_CRON"
ENDED = ("success", "failed")


@task(doc_md="Of the planned runs, those that Airflow has finished, or does not know any more.")
def finished(planned: Any, **context: Any) -> list[str]:
    """The folders of the planned runs that have ended; none while a run is queued that may be about to read from one.

    What a run reads from stands in its folder once its first task has begun; of a run that waits for that, only Airflow
    knows. It may be a run of another DAG, by its path.
    """
    instance = context["ti"]
    dags = {run["dag_id"] for run in planned["runs"] if run["run_id"] is not None} | _readers()
    waiting = sorted(dag_id for dag_id in dags if instance.get_dr_count(dag_id=dag_id, states=["queued"]))
    if waiting:
        print(f"all runs stay: runs of {', '.join(waiting)} are queued, which may read from any of them")
        return []
    return [run["folder"] for run in planned["runs"] if run["run_id"] is None or _has_ended(run, instance)]


def _readers() -> set[str]:
    """The DAGs whose runs may be given another run to read from."""
    described = (training.name for training in trainings_of(os.environ).found.values())
    return {"sharded_training", "retraining", "merge_checkpoint", *described}


def _has_ended(run: dict[str, Any], task_instance: Any) -> bool:
    try:
        return task_instance.get_dagrun_state(run["dag_id"], run["run_id"]) in ENDED
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == HTTPStatus.NOT_FOUND:
            return True  # deleted from Airflow's history
        raise


with DAG(
    dag_id="housekeeping",
    description="Frees the slices of old runs",
    doc_md=__doc__,
    schedule=timetable(os.environ.get(CRON, "0 4 * * 0"), "UTC", lambda _: CRON),
    catchup=False,
    params=form(HousekeepingConfig),
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["shardline"],
    **DAG_DEFAULTS,
) as dag:
    plan = TaskOperator(
        task_id="plan",
        module="tasks.housekeeping",
        arguments=("plan",),
        reads_parameters=True,
        execution_timeout=timedelta(hours=1),
        doc_md="Says what can be freed, with sizes.",
    )
    free = TaskOperator(
        task_id="free",
        module="tasks.housekeeping",
        arguments=("free",),
        reads_parameters=True,
        documents={"SHARDLINE_FINISHED_RUNS": "{{ ti.xcom_pull(task_ids='finished') | tojson }}"},
        execution_timeout=timedelta(hours=6),
        doc_md="Frees what was planned and has ended; runs that came into use meanwhile stay.",
    )
    finished(plan.output) >> free
