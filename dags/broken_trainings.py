"""No DAG of its own: says, as an import error, what is wrong in the files of SHARDLINE_TRAININGS.

The trainings that the other files describe are in `trainings.py`, and go on working.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from dags.described_training import schedule_of
from shardline.base.errors import ConfigError
from shardline.settings.training import Training
from shardline.settings.trainings import trainings_of


def problems_of_schedules(found: Mapping[Path, Training]) -> Iterator[str]:
    """What is wrong with the trainings' schedules, which only Airflow knows."""
    for file, training in found.items():
        try:
            schedule_of(file, training)
        except ConfigError as error:  # noqa: PERF203  each file is judged by itself
            yield str(error)


_trainings = trainings_of(os.environ)
if _problems := [*_trainings.problems, *problems_of_schedules(_trainings.found)]:
    raise ConfigError("\n".join(_problems)) from None
