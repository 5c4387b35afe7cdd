"""A DAG for each training that a file in SHARDLINE_TRAININGS describes.

What is wrong in such a file is an import error of `broken_trainings.py`: Airflow hides all DAGs of a file that has one.
"""

from __future__ import annotations

import os

from airflow.sdk import DAG

from dags.described_training import described_training
from shardline.base.errors import ConfigError
from shardline.settings.trainings import trainings_of

DAGS: list[DAG] = []
for _file, _training in trainings_of(os.environ).found.items():
    try:
        DAGS.append(described_training(_file, _training))
    except ConfigError:  # noqa: PERF203  which broken_trainings.py says
        continue
