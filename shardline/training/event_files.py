"""The steps' metrics as TensorBoard's event files, in the run's folder `tensorboard`: `tensorboard --logdir RUN`.

`metrics.jsonl` is the record; these are for who likes to look at runs side by side. Each try of a run adds a file, and
TensorBoard leaves out what an earlier one recorded beyond the step that it went on from.

A step is one event, framed here. tensorboardX's own writer hands each number through a queue to a thread, which takes
seven times as long, much of it beside the next step; without that thread it has the loop wait for the disk.
"""

from __future__ import annotations

import platform
import struct
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from shardline.training.step_record import StepRecord

_FLUSH_SECONDS = 10


class EventFiles:
    """Open for one try, from `step` on."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._file = (folder / f"events.out.tfevents.{now:.0f}.{platform.node()}").open("ab")
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        started = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=now, step=step + 1, session_log=started))
        self._flushed_at = float("-inf")

    def step(self, record: StepRecord) -> None:
        """Add what is known of one step; it is in the file seconds later, the first at once."""
        values = [Summary.Value(tag=f"train/{name}", simple_value=value) for name, value in record.numbers().items()]
        self._write(Event(wall_time=time.time(), step=record.step, summary=Summary(value=values)))
        if time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
            self._flushed_at = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def _write(self, event: Event) -> None:
        """Write `event` as a TFRecord: its length, the length's checksum, itself, its own checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        self._file.write(length + _checksum(length) + content + _checksum(content))


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))
