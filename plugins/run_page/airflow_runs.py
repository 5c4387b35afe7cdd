"""What Airflow's database knows of runs: their state, their tasks, and which ones a user may see."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from graphlib import TopologicalSorter
from typing import Any

from airflow.api_fastapi.common.dagbag import create_dag_bag
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import select
from sqlalchemy.orm import Session

_UNFINISHED = {"queued", "running"}


def describe_run(session: Session, dag_id: str, run_id: str) -> dict[str, Any] | None:
    """State, times, parameters' names and task instances of a run; `None` where Airflow doesn't know it.

    The tasks stand in the DAG's order, whatever became of them.
    """
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if run is None:
        return None
    dag = _dags().get_dag_for_run(run, session=session)
    upstream = {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} if dag is not None else {}
    places = {task_id: place for place, task_id in enumerate(TopologicalSorter(upstream).static_order())}
    tasks = sorted(
        _tasks(session, dag_id, run_id), key=lambda task: (places.get(task.task_id, len(places)), task.map_index)
    )
    return _run(run) | {
        "parameters": list(dag.params) if dag is not None else [],
        "tasks": [_task(task) for task in tasks],
    }


@cache
def _dags() -> DBDagBag:
    """Airflow's own copies of the DAGs, kept in memory for a while as its API keeps them."""
    return create_dag_bag()


def task_is_running(session: Session, dag_id: str, run_id: str, task_id: str) -> bool:
    """Whether some instance of the task runs now."""
    query = select(TaskInstance.state).where(
        TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == task_id
    )
    return "running" in session.scalars(query)


def list_runs(session: Session, dag_ids: Iterable[str], *, limit: int, offset: int) -> list[dict[str, Any]]:
    """Runs of these DAGs, the newest first."""
    query = (
        select(DagRun).where(DagRun.dag_id.in_(list(dag_ids))).order_by(DagRun.id.desc()).limit(limit).offset(offset)
    )
    return [_run(run) for run in session.scalars(query)]


def seconds_of(tasks: Iterable[dict[str, Any]]) -> float | None:
    """From the first start to the last end of what `describe_run` says of tasks; `None` before one has ended."""
    ended = [task for task in tasks if task["started"] and task["duration"] is not None]
    if not ended:
        return None
    starts = [_timestamp(task["started"]) for task in ended]
    return max(start + float(task["duration"]) for start, task in zip(starts, ended, strict=True)) - min(starts)


def start_of(tasks: Iterable[dict[str, Any]]) -> float | None:
    """When the first of what `describe_run` says of tasks started, in seconds since 1970; `None` before one has."""
    return min((_timestamp(task["started"]) for task in tasks if task["started"]), default=None)


def _timestamp(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _tasks(session: Session, dag_id: str, run_id: str) -> Iterable[TaskInstance]:
    return session.scalars(
        select(TaskInstance)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        .order_by(TaskInstance.task_id)
    )


def _run(run: DagRun) -> dict[str, Any]:
    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "state": str(run.state),
        "is_live": str(run.state) in _UNFINISHED,
        "started": _iso(run.start_date),
        "ended": _iso(run.end_date),
        "seconds": _seconds(run.start_date, run.end_date),
        "run_type": str(run.run_type),
    }


def _task(task: TaskInstance) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "map_index": task.map_index,
        "state": str(task.state) if task.state else None,
        "try_number": task.try_number,
        "started": _iso(task.start_date),
        "duration": task.duration,
    }


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    """How long it took, or has taken."""
    return None if start is None else ((end or datetime.now(tz=start.tzinfo)) - start).total_seconds()


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
