"""The steps' metrics as TensorBoard's event files, in the run's folder `tensorboard`: `tensorboard --logdir RUN`.

`metrics.jsonl` is the record; these are for who likes to look at runs side by side. Each try of a run adds a file, and
TensorBoard leaves out what an earlier one recorded beyond the step that it went on from (`purge_step`).
"""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from shardline.training.step_record import StepRecord

_FLUSH_SECONDS = 10


class EventFiles:
    """Open for one try, from `step` on."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=_FLUSH_SECONDS)

    def step(self, record: StepRecord) -> None:
        """Add what is known of one step."""
        for name, value in record.numbers().items():
            self._writer.add_scalar(f"train/{name}", value, record.step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
