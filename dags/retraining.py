"""The pipeline of `sharded_training` on a schedule.

| setting (environment of Airflow) | meaning | default |
|---|---|---|
| `SHARDLINE_RETRAINING_CRON` | when to run: a cron expression, or `@daily` and the like | never |
| `SHARDLINE_RETRAINING_TIMEZONE` | the time zone of that expression | `UTC` |
| `SHARDLINE_RETRAINING_PARAMETERS` | JSON object: the parameters that differ from their defaults | `{}` |

`SHARDLINE_RETRAINING_PARAMETERS='{"start_from": "current"}'` starts each training from the model promoted last.
The DAG is created paused, and first runs at the next tick after it is unpaused. Of the ticks missed later, while it is
paused or Airflow stopped, Airflow makes up for the last one at most.
"""

from __future__ import annotations

import os

from airflow.sdk import DAG

from dags.pipeline import TASK_DEFAULTS, parameters, pipeline
from dags.schedule import chosen_parameters, timetable

with DAG(
    dag_id="retraining",
    description="The pipeline of sharded_training, on a schedule",
    doc_md=__doc__,
    schedule=timetable(os.environ),
    catchup=False,
    params=parameters(chosen_parameters(os.environ)),
    default_args=TASK_DEFAULTS,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["shardline", "training", "scheduled"],
) as dag:
    pipeline()
