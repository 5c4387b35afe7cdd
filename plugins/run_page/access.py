"""Who may see what, by Airflow's own rules; and the files that a permitted request is about."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, HTTPException

from shardline.page.containment import Contained
from shardline.page.curves import Curves
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import home_from

READS_RUN = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))
READS_LOGS = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.TASK_LOGS))

MOST_RUNS_IN_MEMORY = 8


@dataclass(frozen=True)
class Run:
    """The run that a request is about: its ids, and its folder if a task has made it."""

    dag_id: str
    run_id: str
    home: Home

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.home.run(self.dag_id, self.run_id))

    @property
    def has_started(self) -> bool:
        return self.directory.path.is_dir()

    @property
    def files(self) -> Contained:
        """The files of the run; `RunDirectoryError` where there is no folder, or it leads out of the run root."""
        return Contained.below(self.directory.path, self.home.path)


def the_run(dag_id: str, run_id: str) -> Run:
    """The run of a request: `dag_id` from its path, which Airflow has checked, `run_id` from its query."""
    if dag_id == "~":  # to Airflow's check this means any DAG
        raise HTTPException(404, "no such DAG")
    return Run(dag_id, run_id, home_from(os.environ))


RunDep = Annotated[Run, Depends(the_run)]


class MetricsInMemory:
    """The metrics of the runs that were looked at last, as far as they were read."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, Curves] = OrderedDict()
        self._lock = Lock()

    def of(self, files: Contained) -> Curves:
        with self._lock:
            found = self._known.pop(files.root, None) or Curves(files, RunDirectory(files.root).metrics_file)
            self._known[files.root] = found
            while len(self._known) > MOST_RUNS_IN_MEMORY:
                self._known.popitem(last=False)
            return found


METRICS = MetricsInMemory()
