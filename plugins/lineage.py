"""What Airflow's OpenLineage provider is told of a task: datasets with digests, and which code ran.

The provider asks an operator that has these methods, in a process of its own and for at most ten seconds, once it is
installed and has somewhere to send events (docs/lineage.md). Without it nobody calls them, and nothing of it is
imported. What goes wrong here it logs as a warning: no task fails for its sake.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


class WithLineage:
    """For operators whose tasks read and write a run directory."""

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """What the task read and wrote."""
        return _lineage(task_instance, has_succeeded=True)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """What the task was to read."""
        return _lineage(task_instance, has_succeeded=False)


def _lineage(task_instance: Any, *, has_succeeded: bool) -> OperatorLineage[Any, Any]:
    from plugins.lineage_facets import operator_lineage

    home = home_from(os.environ)
    run = RunDirectory(home.run(task_instance.dag_id, task_instance.run_id))
    return operator_lineage(task_instance.task_id, run, home, os.environ, has_succeeded=has_succeeded)
