"""The pipeline of `sharded_training` on a schedule, when new data is announced, or both.

| environment of Airflow | key of the Variable `shardline_retraining` | meaning | default |
|---|---|---|---|
| `SHARDLINE_RETRAINING_CRON` | `cron` | when to run: a cron expression, or `@daily` and the like | never |
| `SHARDLINE_RETRAINING_TIMEZONE` | `timezone` | the time zone of that expression | `UTC` |
| `SHARDLINE_RETRAINING_ON_DATASET` | `on_dataset` | `true`: when the asset `shardline-dataset` is updated | `false` |
| `SHARDLINE_RETRAINING_PARAMETERS` | `parameters` | the parameters that differ from their defaults, JSON | `{}` |

The Variable is a JSON object of these keys; it counts where the environment has none of them, and a change is seen
when Airflow parses the DAG again. *parameters* `{"start_from": "current"}` starts each training from the model promoted
last. A model that is worse than that one, on the same data, is not promoted, unless *parameters* change
`champion_margin`.

The DAG is created paused, and runs at the next tick after it is unpaused. A tick missed by more than five minutes,
while the DAG was paused, Airflow stopped, or the run before still going on, is let go.
"""

from __future__ import annotations

import os

from airflow.sdk import DAG

from dags.form import form
from dags.pipeline import DAG_DEFAULTS, DATASET, pipeline
from dags.schedule import chosen_parameters, schedule, settings, variable
from shardline.settings.run_config import RunConfig

chosen = settings(os.environ, variable)

with DAG(
    dag_id="retraining",
    description="The pipeline of sharded_training, on a schedule",
    doc_md=__doc__,
    schedule=schedule(chosen, DATASET),
    catchup=False,
    params=form(RunConfig, {"champion_margin": 0.0} | chosen_parameters(chosen)),
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["shardline", "training", "scheduled"],
    **DAG_DEFAULTS,
) as dag:
    pipeline()
