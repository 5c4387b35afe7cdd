"""How ranks learn, without a collective, how far the others are: small files, each written atomically.

src_checkpoints/.receipts/STEP/rank_N.json     its slices are on disk; rank 0 waits for all, then writes the manifest
src_checkpoints/.receipts/end/rank_N.json      it needs nobody any more; all wait for all, then leave
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
        atomic.write_text(self._path(str(step), slices.rank), json.dumps(asdict(slices)))

    def collect(self, step: int, world_size: int) -> tuple[SliceFile, ...]:
        """All ranks' receipts of `step`, when they are there; `TrainingError` names the ranks that never saved."""
        self._wait_for_all(str(step), world_size)
        paths = (self._path(str(step), rank) for rank in range(world_size))
        return tuple(SliceFile(**json.loads(path.read_bytes())) for path in paths)

    def leave_together(self, rank: int, world_size: int) -> None:
        """Return when all ranks are here, none of them inside a collective.

        A barrier made of a collective would not do: MindSpore's AllReduce on the CPU returns on one rank while another
        still waits for that rank's acknowledgement, which never comes if its process ends.
        """
        atomic.write_text(self._path("end", rank), "{}")
        self._wait_for_all("end", world_size)

    def _wait_for_all(self, occasion: str, world_size: int) -> None:
        deadline = time.monotonic() + self._patience
        missing = set(range(world_size))
        while missing := {rank for rank in missing if not self._path(occasion, rank).exists()}:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"expected the receipts of all {world_size} ranks for {occasion!r} within {self._patience:.0f} s, "
                    f"but ranks {sorted(missing)} left none; look into their logs, and at the space in "
                    f"{self._folder.parent}"
                )
            time.sleep(_POLL_SECONDS)

    def discard(self, step: int) -> None:
        """Remove the receipts of `step`, which its manifest has made superfluous."""
        shutil.rmtree(self._path(str(step), 0).parent)

    def discard_of(self, rank: int) -> None:
        """Remove what `rank` left in an earlier try."""
        for path in self._folder.glob(f"*/rank_{rank}.json"):
            path.unlink()

    def _path(self, occasion: str, rank: int) -> Path:
        return self._folder / occasion / f"rank_{rank}.json"
