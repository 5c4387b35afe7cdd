"""Trains a network sharded over several ranks, merges the slices, validates the merged model and promotes it.

| task | does | leaves in the run directory |
|---|---|---|
| `prepare_dataset` | validates the parameters, fetches and checks the data | `config.json`, `dataset.json` |
| `train` | `mpirun -n N`: every rank its own slices | `src_strategy.ckpt`, `src_checkpoints/`, `log_output/` |
| `merge` | the slices become one checkpoint; may be cleared alone | `merged/` |
| `validate` | how good the merged model is, unsharded | `validation/` |
| `approve` | asks a person, where *Approval* is on | |
| `promote` | a new version in the model store, asset `shardline` | `promotion.json` |
| `upload` | copies the version to an object storage, where *Upload to* names one | |
| `export` | the version for Hugging Face's `transformers`, where *Hugging Face export* is set | |

Trigger it with the form, or with a JSON document of the same parameters.
"""

from __future__ import annotations

from airflow.sdk import DAG

from dags.form import form
from dags.pipeline import DAG_DEFAULTS, pipeline
from shardline.settings.run_config import RunConfig

with DAG(
    dag_id="sharded_training",
    description="Sharded training → merge → validation → promotion",
    doc_md=__doc__,
    schedule=None,
    params=form(RunConfig),
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["shardline", "training"],
    **DAG_DEFAULTS,
) as dag:
    pipeline()
