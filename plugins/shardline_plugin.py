"""What this project adds to Airflow itself, besides the run page. Airflow loads this file in all of its processes."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from plugins.skipping_timetable import SkippingCronOrAsset, SkippingCronTimetable


def trigger_check(app: Any) -> Any:
    """The middleware that checks triggers: loaded by API servers alone."""
    from plugins.trigger_check import TriggerCheck

    return TriggerCheck(app)


_MIDDLEWARES: list[Any] = [{"middleware": trigger_check, "args": [], "kwargs": {}, "name": "Shardline's parameters"}]


class ShardlinePlugin(AirflowPlugin):
    """The timetables of scheduled DAGs, and the check of what a trigger brings."""

    name = "shardline"
    timetables = [SkippingCronTimetable, SkippingCronOrAsset]  # noqa: RUF012  Airflow's interface
    fastapi_root_middlewares = _MIDDLEWARES
