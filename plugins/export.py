"""The export of a promoted version, where the run's parameters ask for it."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from plugins.task_operator import TaskOperator
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from


class ExportIfAsked(TaskOperator):
    """Runs `tasks.export`; skipped where the run's parameter `hugging_face_export` is empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(module="tasks.export", **kwargs)

    def execute(self, context: Context) -> Any:
        """Export, or skip."""
        run = RunDirectory(home_from(os.environ).run(context["dag"].dag_id, context["run_id"]))
        if not run.read_any_config().hugging_face_export:
            raise AirflowSkipException("the parameter hugging_face_export is empty: nothing is exported")
        return super().execute(context)
