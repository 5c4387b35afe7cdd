"""How a training gets on, by Airflow's own metrics: StatsD, Datadog or OpenTelemetry, whichever its settings name.

    shardline.step, .loss                     of the newest step
    shardline.samples_per_second              the mean since the last report
    shardline.step_seconds                    how long a step took, the mean since the last report
    shardline.queue_seconds                   how long the training has waited, or waited, for cards
    shardline.cards_in_use                    of the worker's host, by all runs

All are gauges with the tags dag_id and model_name, the last with host and device: as many as there are DAGs and models,
or hosts, however many runs. For servers without tags each is sent a second time as shardline.DAG.MODEL.NAME, or
shardline.HOST.DEVICE.cards_in_use, as Airflow does with its own (`[metrics] legacy_names_on`).

A thread of the task's process reads what the run directory has to tell; no rank knows of it.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats

from shardline.base.errors import ShardlineError
from shardline.base.json_object import object_in
from shardline.run.directory import Home, RunDirectory
from shardline.run.held_cards import held_cards
from shardline.tracking.new_metrics import next_batch
from shardline.tracking.sent import Sent

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

EVERY_SECONDS = 10.0
_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")
_MOST_BYTES = 1 << 18
"""Of new lines that a look reads: a few thousand steps, and of more the last."""


@contextmanager
def reported(run: RunDirectory, home: Home, dag_id: str, log: Logger) -> Iterator[None]:
    """Report on the training of `run` every few seconds while the block runs, and once more when it ends.

    Nothing happens where Airflow sends no metrics.
    """
    if not any(conf.getboolean("metrics", switch, fallback=False) for switch in _SWITCHES):
        yield
        return
    report = Report(run, home, dag_id)
    ended = threading.Event()

    def tell() -> None:
        try:
            report.send()
        except (OSError, ShardlineError) as error:
            log.warning("the training's metrics cannot be sent now, which stops nothing: %s", error)

    def repeat() -> None:
        while not ended.wait(EVERY_SECONDS):
            tell()

    thread = threading.Thread(target=repeat, daemon=True, name="metrics")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        tell()


class Report:
    """What is told of one try of a training, which begins now."""

    def __init__(self, run: RunDirectory, home: Home, dag_id: str) -> None:
        self._run, self._home, self._dag_id = run, home, dag_id
        self._began = time.time()
        self._lines = NewSteps(run.metrics_file)
        self._batch_size: int | None = None
        self._model = ""

    def send(self) -> None:
        """Tell what is known by now; `OSError` or a `ShardlineError` where the run cannot be read."""
        if not self._model:
            config = self._run.read_any_config()
            self._model, self._batch_size = config.model_name, getattr(config, "batch_size", None)
        figures = self._lines.figures(self._batch_size)
        waited = self._queue_seconds()
        if waited is not None:
            figures["queue_seconds"] = waited
        tags = {"dag_id": self._dag_id, "model_name": self._model}
        for name, value in figures.items():
            _gauge(name, value, tags)
        self._send_cards()

    def _queue_seconds(self) -> float | None:
        """How long this try has waited for cards; `None` before it asks."""
        try:
            times = object_in(self._run.cards_file.read_bytes()) or {}
        except FileNotFoundError:
            return None
        asked, held = times.get("asked"), times.get("held", time.time())
        if not isinstance(asked, int | float) or not isinstance(held, int | float) or asked < self._began:
            return None  # an earlier try's
        return max(held - asked, 0.0)

    def _send_cards(self) -> None:
        """Of each kind that was seen: a kind of which none is held any more has 0."""
        for device, runs in held_cards(self._home).items():
            tags = {"host": socket.gethostname(), "device": device}
            _gauge("cards_in_use", sum(map(len, runs.values())), tags)


class NewSteps:
    """The steps that a `metrics.jsonl` gets from now on; a try that resumes writes the file anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._at_the_end()
        self._steps_since: float | None = None
        """When the last look ended that found steps."""

    def figures(self, batch_size: int | None) -> dict[str, float]:
        """What the steps since the last look say; empty where there are none."""
        status = self._status()
        is_another = status is not None and (status.st_ino != self._seen.inode or status.st_size < self._seen.offset)
        if status is not None and is_another:
            self._seen, self._steps_since = Sent("", inode=status.st_ino), None
        if status is not None:
            self._seen.offset = max(self._seen.offset, status.st_size - _MOST_BYTES)
        values = self._new_values()
        steps = len({step for name, step, _ in values if not name.startswith("epoch_")})
        if not steps:
            return {}
        found: dict[str, float] = {"step": float(self._seen.last_step)}
        found |= {name: value for name, _, value in values if name == "loss"}
        rates = [value for name, _, value in values if name == "samples_per_second" and value > 0]
        if rates:
            found["samples_per_second"] = len(rates) / sum(1 / rate for rate in rates)
        if rates and batch_size:
            found["step_seconds"] = batch_size / found["samples_per_second"]
        now = time.monotonic()
        if self._steps_since is not None:
            found.setdefault("step_seconds", (now - self._steps_since) / steps)
        self._steps_since = now
        return found

    def _new_values(self) -> list[tuple[str, int, float]]:
        values: list[tuple[str, int, float]] = []
        while (batch := next_batch(self._file, self._seen)) is not None:
            values += batch.values
            self._seen.offset = batch.end
            self._seen.last_step, self._seen.last_epoch = batch.last_step, batch.last_epoch
        return values

    def _at_the_end(self) -> Sent:
        status = self._status()
        return Sent("") if status is None else Sent("", inode=status.st_ino, offset=status.st_size)

    def _status(self) -> os.stat_result | None:
        try:
            return self._file.stat()
        except FileNotFoundError:
            return None


def _gauge(name: str, value: float, tags: Mapping[str, str]) -> None:
    if not math.isfinite(value):
        return  # a loss that is none has no place on a scale: Airflow's log and the run page show it
    stats.gauge(f"shardline.{name}", value, tags=dict(tags))
    if conf.getboolean("metrics", "legacy_names_on", fallback=True):
        places = (stats.normalize_name_for_stats(tag, log_warning=False).replace(".", "__") for tag in tags.values())
        stats.gauge(f"shardline.{'.'.join(places)}.{name}", value)
