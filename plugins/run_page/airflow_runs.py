"""What Airflow's database knows of runs: their state, their tasks, and which ones a user may see."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import select
from sqlalchemy.orm import Session

_UNFINISHED = {"queued", "running"}


def describe_run(session: Session, dag_id: str, run_id: str) -> dict[str, Any] | None:
    """State, times and task instances of a run; `None` where Airflow doesn't know it."""
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if run is None:
        return None
    return _run(run) | {"tasks": [_task(task) for task in _tasks(session, dag_id, run_id)]}


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
    starts = [datetime.fromisoformat(task["started"]).timestamp() for task in ended]
    return max(start + float(task["duration"]) for start, task in zip(starts, ended, strict=True)) - min(starts)


def _tasks(session: Session, dag_id: str, run_id: str) -> list[TaskInstance]:
    query = select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    # Tasks that wait have no start yet; they come last, in the order of their ids.
    return sorted(
        session.scalars(query), key=lambda task: (task.start_date is None, task.start_date or 0, task.task_id)
    )


def _run(run: DagRun) -> dict[str, Any]:
    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "state": str(run.state),
        "is_live": str(run.state) in _UNFINISHED,
        "started": _iso(run.start_date),
        "ended": _iso(run.end_date),
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


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
