"""What this project adds to Airflow itself."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from plugins.skipping_timetable import SkippingCronOrAsset, SkippingCronTimetable


class ShardlinePlugin(AirflowPlugin):
    """The timetables of scheduled DAGs."""

    name = "shardline"
    timetables = [SkippingCronTimetable, SkippingCronOrAsset]  # noqa: RUF012  Airflow's interface
