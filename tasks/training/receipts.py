"""How rank 0 learns, without a collective, that every rank has saved: small files, each written atomically.

    src_checkpoints/.receipts/STEP/rank_N.json

A rank leaves its receipt when its slices are on disk. Rank 0 waits for all of them, then writes the manifest.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from tasks import atomic
from tasks.checkpoint.shard_set import SliceFile
from tasks.errors import TrainingError

_POLL_SECONDS = 0.01


class Receipts:
    """The receipts in one folder of checkpoints."""

    def __init__(self, checkpoints: Path, patience_seconds: float = 300) -> None:
        self._folder = checkpoints / ".receipts"
        self._patience = patience_seconds

    def leave(self, step: int, slices: SliceFile) -> None:
        """Say that `slices` are on disk."""
        atomic.write_text(self._path(step, slices.rank), json.dumps(asdict(slices)))

    def collect(self, step: int, world_size: int) -> tuple[SliceFile, ...]:
        """All ranks' receipts of `step`, when they are there; `TrainingError` names the ranks that never saved."""
        deadline = time.monotonic() + self._patience
        missing = set(range(world_size))
        while missing:
            missing = {rank for rank in missing if not self._path(step, rank).exists()}
            if missing and time.monotonic() > deadline:
                raise TrainingError(
                    f"step {step}: expected all {world_size} ranks to save within {self._patience:.0f} s, but ranks "
                    f"{sorted(missing)} did not; look into their logs and at the space in {self._folder.parent}"
                )
            if missing:
                time.sleep(_POLL_SECONDS)
        return tuple(SliceFile(**json.loads(self._path(step, rank).read_bytes())) for rank in range(world_size))

    def discard(self, step: int) -> None:
        """Remove the receipts of `step`, which its manifest has made superfluous."""
        shutil.rmtree(self._path(step, 0).parent)

    def discard_of(self, rank: int) -> None:
        """Remove what `rank` left in an earlier try."""
        for path in self._folder.glob(f"*/rank_{rank}.json"):
            path.unlink()

    def _path(self, step: int, rank: int) -> Path:
        return self._folder / str(step) / f"rank_{rank}.json"
