"""A cron timetable that lets missed ticks go.

Airflow's own runs the last tick that was missed while the DAG was paused, or Airflow stopped, as soon as it can. Here a
tick counts as missed once it is older than a grace period, which covers what Airflow needs to notice a tick on time;
the next run is then at the next tick.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow._shared.timezones.timezone import coerce_datetime, utcnow
from airflow.timetables.assets import AssetOrTimeSchedule
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable
from airflow.timetables.trigger import CronTriggerTimetable

if TYPE_CHECKING:
    from airflow.models.dag import DagModel
    from pendulum import DateTime

GRACE = timedelta(minutes=5)


class MissedTick(Exception):
    """A tick that Airflow had noted before was missed; the scheduler logs this, and makes no run."""


class SkippingCronTimetable(CronTriggerTimetable):
    """Runs at the ticks of a cron expression, and never makes up for a missed one."""

    def __init__(self, cron: str, *, timezone: str, grace: timedelta = GRACE) -> None:
        super().__init__(cron, timezone=timezone)
        self._grace = grace

    def serialize(self) -> dict[str, Any]:
        """What `deserialize` takes."""
        return super().serialize() | {"grace": self._grace.total_seconds()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Timetable:
        """The timetable that `serialize` described."""
        return cls(data["expression"], timezone=data["timezone"], grace=timedelta(seconds=data["grace"]))

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next tick that is not missed."""
        following = super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
        return self._following() if following is not None and self._is_missed(following) else following

    def next_run_info_from_dag_model(self, *, dag_model: DagModel) -> DagRunInfo | None:
        """The run that the scheduler is about to make, of a tick that was noted before.

        `MissedTick` where that was missed meanwhile; then `dag_model` notes the next tick instead.
        """
        due = super().next_run_info_from_dag_model(dag_model=dag_model)
        if due is None or not self._is_missed(due):
            return due
        following = self._following()
        dag_model.next_dagrun = following.logical_date
        dag_model.next_dagrun_data_interval = following.data_interval
        dag_model.next_dagrun_create_after = following.run_after
        raise MissedTick(f"{dag_model.dag_id}: the tick of {due.run_after} was missed; next is {following.run_after}")

    def _calc_first_run(self) -> DateTime:
        """The next tick: Airflow's own takes one of the last 10 % of an interval, even with `run_immediately=False`."""
        return self._align_to_next(coerce_datetime(utcnow()))

    def _following(self) -> DagRunInfo:
        return DagRunInfo.exact(self._align_to_next(coerce_datetime(utcnow())))

    def _is_missed(self, info: DagRunInfo) -> bool:
        return info.run_after < coerce_datetime(utcnow()) - self._grace


class SkippingCronOrAsset(AssetOrTimeSchedule):
    """Runs at the ticks of a `SkippingCronTimetable`, and when assets are updated."""

    def next_run_info_from_dag_model(self, *, dag_model: DagModel) -> DagRunInfo | None:
        """As the timetable of the ticks has it."""
        return self.timetable.next_run_info_from_dag_model(dag_model=dag_model)
