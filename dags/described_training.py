"""The DAG of a training that a description file declares (`shardline.settings.training`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from dags.form import form
from dags.pipeline import DAG_DEFAULTS, DATASET, pipeline
from dags.schedule import RetrainingSettings, Settings, schedule
from shardline.settings.training import Training
from shardline.settings.training_config import form_of

ABOUT = """{description}

Made from `{file}`, which says how the training is started, watched, resumed and judged; whoever triggers it chooses
values of the parameters that the file declares.

| task | does | leaves in the run directory |
|---|---|---|
| `prepare_dataset` | validates the parameters and the command | `config.json` |
| `train` | `{launcher}`: {command} | slices, `log_output/` |
| `merge` | the slices become one checkpoint; may be cleared alone | `merged/` |
| `validate` | the merged file, by its proof and by the training's own command | `validation/` |
| `approve` | asks a person, where *Approval* is on | |
| `promote` | a new version in the model store, asset `shardline` | `promotion.json` |
| `upload` | copies the version to an object storage, where *Upload to* names one | |
| `export` | the version for Hugging Face's `transformers`, where *Hugging Face export* is set | |
"""
PREPARE = """Validates the run's parameters against the description, and looks whether the command can be started.

A wrong parameter fails here, at once and without a retry."""


def schedule_of(file: Path, training: Training) -> Any:
    """When Airflow runs the training by itself; `ConfigError` names file and key of a wrong schedule."""
    chosen = training.schedule
    values = RetrainingSettings(cron=chosen.cron, timezone=chosen.timezone, on_dataset=chosen.on_dataset)
    names = {key: f"{file}: schedule.{key}" for key in RetrainingSettings.model_fields}
    return schedule(Settings(values, names), DATASET)


def described_training(file: Path, training: Training) -> DAG:
    """The DAG of `training`, which `file` describes; `ConfigError` where its schedule is none."""
    when = schedule_of(file, training)
    with DAG(
        dag_id=training.name,
        description=training.description or f"The training that {file.name} describes",
        doc_md=ABOUT.format(
            description=training.description or training.name,
            file=file,
            launcher=training.launcher,
            command=" ".join(f"`{word}`" for word in training.command),
        ),
        schedule=when,
        catchup=False,
        params=form(form_of(training)),
        max_active_runs=4 if when is None else 1,
        is_paused_upon_creation=when is not None,
        tags=["shardline", "training", "described"],
        **DAG_DEFAULTS,
    ) as dag:
        pipeline(prepare=("tasks.prepare_training", file.name), about=PREPARE)
    return dag
