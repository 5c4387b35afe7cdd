"""No missed tick is made up for, whoever asks: the DAG processor, or the scheduler with what was noted before."""

from datetime import timedelta
from types import SimpleNamespace

import pendulum
import pytest
from airflow.timetables.base import DataInterval, TimeRestriction

from plugins.skipping_timetable import MissedTick, SkippingCronTimetable

ANY_TIME = TimeRestriction(earliest=None, latest=None, catchup=False)
TICK = pendulum.datetime(2026, 5, 4, 3)
NEXT = TICK.add(days=1)


@pytest.fixture
def timetable() -> SkippingCronTimetable:
    return SkippingCronTimetable("0 3 * * *", timezone="UTC")


@pytest.fixture
def travel(monkeypatch):
    """Set the time that the timetable takes for now."""

    def to(now: pendulum.DateTime) -> None:
        for module in ("airflow.timetables.trigger", "plugins.skipping_timetable"):
            monkeypatch.setattr(f"{module}.utcnow", lambda: now)

    return to


def next_tick(timetable, last: pendulum.DateTime | None) -> pendulum.DateTime:
    interval = DataInterval.exact(last) if last else None
    info = timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=ANY_TIME)
    assert info is not None
    return info.run_after


@pytest.mark.parametrize(
    ("now", "last", "expected"),
    [
        (TICK.subtract(hours=1), TICK.subtract(days=1), TICK),
        (TICK.add(seconds=1), TICK.subtract(days=1), TICK),  # on time, as far as Airflow can be
        (TICK.add(minutes=4), TICK.subtract(days=1), TICK),
        (TICK.add(minutes=6), TICK.subtract(days=1), NEXT),
        (TICK.add(hours=9), TICK.subtract(days=30), NEXT),
        (TICK.add(seconds=1), TICK, NEXT),
        (TICK.add(seconds=1), None, NEXT),  # just created, or just unpaused for the first time
        (TICK.add(hours=1), None, NEXT),
    ],
)
def test_the_next_run_is_at_a_tick_that_was_not_missed(timetable, travel, now, last, expected):
    travel(now)
    assert next_tick(timetable, last) == expected


def noted(run_after: pendulum.DateTime) -> SimpleNamespace:
    """A DAG as the database knows it: its next tick was noted before."""
    return SimpleNamespace(
        dag_id="retraining",
        next_dagrun=run_after,
        next_dagrun_data_interval=DataInterval.exact(run_after),
        next_dagrun_create_after=run_after,
        next_dagrun_partition_date=None,
        next_dagrun_partition_key=None,
    )


def test_the_scheduler_makes_the_run_of_a_tick_that_is_due(timetable, travel):
    travel(TICK.add(seconds=2))
    info = timetable.next_run_info_from_dag_model(dag_model=noted(TICK))
    assert info.run_after == TICK


def test_the_scheduler_that_was_stopped_over_a_tick_makes_no_run_and_notes_the_next(timetable, travel):
    dag_model = noted(TICK)
    travel(TICK.add(hours=9))
    with pytest.raises(MissedTick, match=r"retraining: the tick of 2026-05-04 03:00:00.* missed; next is 2026-05-05"):
        timetable.next_run_info_from_dag_model(dag_model=dag_model)
    assert (dag_model.next_dagrun, dag_model.next_dagrun_create_after) == (NEXT, NEXT)
    assert dag_model.next_dagrun_data_interval == DataInterval.exact(NEXT)


def test_it_is_written_and_read_as_it_was(timetable):
    other = SkippingCronTimetable("*/5 * * * *", timezone="Europe/Berlin", grace=timedelta(seconds=30))
    read = SkippingCronTimetable.deserialize(other.serialize())
    assert read.serialize() == other.serialize() != timetable.serialize()
