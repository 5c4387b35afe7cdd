"""The operator of `train`: while it runs, what the training has reached stands in Airflow's task state store.

The store (Airflow 3.3) belongs to one task of one run, and outlives its tries: Airflow's page of the task shows it, and
its REST API gives it. The next try says what the one before reached; what it goes on from is still decided by what lies
on disk (`shardline/training/candidates.py`). Nothing waits for the store, and its failure fails nothing. The same way,
Airflow's metrics are told of it (`plugins/training_metrics.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from airflow.sdk import Context

from plugins.task_operator import TaskOperator
from plugins.training_metrics import reported
from shardline.base.json_object import object_in
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from

KEY = "training"
"""Under which the store has `{"step": 160, "steps": 700, "seconds_left": 25, "shard_set": 100}`."""
EVERY_SECONDS = 10.0


class TrainingOperator(TaskOperator):
    """A `TaskOperator` that keeps `KEY` of the task state store up to date from the run directory."""

    def execute(self, context: Context) -> Any:
        """Train, and tell meanwhile."""
        store = context.get("task_state_store")  # None where a worker runs the task without one
        home, dag_id = home_from(os.environ), context["dag"].dag_id
        run = RunDirectory(home.run(dag_id, context["run_id"]))
        telling = nullcontext() if store is None else self._telling(run, store)
        with telling, reported(run, home, dag_id, self.log):
            return super().execute(context)

    @contextmanager
    def _telling(self, run: RunDirectory, store: Any) -> Iterator[None]:
        """Write what `run` has reached every few seconds while the block runs, and once more when it ends."""
        last: list[Any] = [self._if_it_answers(lambda: store.get(KEY))]
        if last[0]:
            self.log.info("the try before reached: %s", last[0])
        ended = threading.Event()

        def tell() -> None:
            found = reached(run)
            if found and found != last[0]:
                self._if_it_answers(lambda: store.set(KEY, found))
                last[0] = found

        def repeat() -> None:
            while not ended.wait(EVERY_SECONDS):
                tell()

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            tell()

    def _if_it_answers(self, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except Exception as error:  # noqa: BLE001  whatever Airflow's client raises: a training doesn't end for it
            self.log.warning("Airflow's task state store cannot be used now, which stops nothing: %s", error)
            return None


def reached(run: RunDirectory) -> dict[str, int]:
    """Rank 0's step, the one that it ends with, the seconds left, and the newest shard set's step: what is known."""
    try:
        status = object_in(run.rank_status(0).read_bytes()) or {}
    except OSError:
        status = {}  # before the first step
    step, steps, pace = (status.get(name) for name in ("step", "last_step", "steps_per_second"))
    saved = ShardSet.steps(run.checkpoints)
    known = {"step": step, "steps": steps, "shard_set": saved[-1] if saved else None}
    if isinstance(step, int) and isinstance(steps, int):
        known["seconds_left"] = _seconds(max(steps - step, 0), pace)
    return {name: value for name, value in known.items() if isinstance(value, int)}


def _seconds(steps: int, pace: Any) -> int | None:
    """How long so many steps take, at so many a second."""
    if steps == 0:
        return 0
    return round(steps / pace) if isinstance(pace, int | float) and pace > 0 else None
