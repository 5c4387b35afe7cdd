"""An example of what follows a promotion: runs whenever the asset `shardline` is updated, and looks at the new version.

Copy it, and put your deployment in the place of `take`. It is created paused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from dags.pipeline import DAG_DEFAULTS, MODEL


@task(inlets=[MODEL], doc_md="Reads the version that was promoted, and returns what a deployment needs to know of it.")
def take(**context: Any) -> dict[str, Any]:
    """The newest promoted version: its checkpoint, digest and record."""
    event = context["inlet_events"][MODEL][-1]
    folder = Path(event.extra["path"])
    version: dict[str, Any] = json.loads((folder / "version.json").read_bytes())
    print(f"version {version['version']}: {folder / version['model']}, BLAKE3 {version['digest']}")
    return {"checkpoint": str(folder / version["model"]), **event.extra}


with DAG(
    dag_id="consume_model",
    description="An example: takes up each model that is promoted",
    doc_md=__doc__,
    schedule=[MODEL],
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["shardline", "example"],
    **DAG_DEFAULTS,
) as dag:
    take()
