"""An example of what follows a promotion: runs whenever the asset `shardline` is updated, and looks at the new version.

All models update the one asset, and each update names its model. This consumer takes those of *Model*, and skips its
task for the others. Copy it, and put your deployment in the place of `take`. It is created paused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from dags.pipeline import DAG_DEFAULTS, MODEL
from shardline.settings.run_parameters import DEFAULT_MODEL


@task(inlets=[MODEL], doc_md="Reads the version that was promoted, and returns what a deployment needs to know of it.")
def take(**context: Any) -> dict[str, Any]:
    """The newest promoted version of the model that is wanted: its checkpoint, digest and record.

    Where updates woke this run, the newest of those; where a person started it, the newest of all.
    """
    wanted, given = context["params"]["model"], context.get("triggering_asset_events") or {}
    updates = given.get(MODEL) or context["inlet_events"][MODEL]
    for event in sorted(updates, key=lambda event: event.timestamp, reverse=True):
        if event.extra.get("model") == wanted:
            break
    else:
        raise AirflowSkipException(f"no update here is of the model {wanted}")
    folder = Path(event.extra["path"])
    version: dict[str, Any] = json.loads((folder / "version.json").read_bytes())
    print(f"version {version['version']} of {wanted}: {folder / version['model']}, BLAKE3 {version['digest']}")
    return {"checkpoint": str(folder / version["model"]), **event.extra}


with DAG(
    dag_id="consume_model",
    description="An example: takes up each version of one model that is promoted",
    doc_md=__doc__,
    schedule=[MODEL],
    params={
        "model": Param(
            DEFAULT_MODEL,
            type="string",
            title="Model",
            description_md="*Model name* of the runs whose versions to take; woken runs take this default.",
        )
    },
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["shardline", "example"],
    **DAG_DEFAULTS,
) as dag:
    take()
