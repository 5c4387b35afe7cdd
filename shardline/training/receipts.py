"""How ranks learn, without a collective, how far the others are: small files, each written atomically.

src_checkpoints/.receipts/STEP/rank_N.json       its slices are on disk; rank 0 waits for all, then writes the manifest
src_checkpoints/.receipts/OCCASION/rank_N.json   what it found; all wait for all, and know the same then
src_checkpoints/.receipts/end/rank_N.json        it needs nobody any more; all wait for all, then leave
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.counts import counted
from shardline.base.errors import TrainingError
from shardline.checkpoint.shards.shard_set import SliceFile

_POLL_SECONDS = 0.01


class Receipts:
    """The receipts in one folder of checkpoints."""

    def __init__(self, checkpoints: Path, patience_seconds: float = 1800) -> None:
        self._folder = checkpoints / ".receipts"
        self._patience = patience_seconds

    def clear(self) -> None:
        """Remove what an earlier try left, of any number of ranks; before any rank of this one leaves its first."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)

    def forget(self, rank: int) -> None:
        """Remove those of `rank` that an earlier try left; before it leaves its first."""
        for receipt in self._folder.glob(f"*/rank_{rank}.json"):
            receipt.unlink(missing_ok=True)

    def leave(self, step: int, slices: SliceFile) -> None:
        """Say that `slices` are on disk."""
        self._write(str(step), slices.rank, asdict(slices))

    def collect(self, step: int, world_size: int) -> tuple[SliceFile, ...]:
        """All ranks' receipts of `step`, when they are there; `TrainingError` names the ranks that never saved."""
        return tuple(SliceFile(**document) for document in self._read_all(str(step), world_size))

    def exchange(self, occasion: str, rank: int, world_size: int, document: Any) -> list[Any]:
        """Every rank's `document`, by rank, when all have given theirs: the same list on all ranks."""
        self._write(occasion, rank, document)
        return self._read_all(occasion, world_size)

    def leave_together(self, rank: int, world_size: int) -> None:
        """Return when all ranks are here, none of them inside a collective.

        A barrier made of a collective would not do: MindSpore's AllReduce on the CPU returns on one rank while another
        still waits for that rank's acknowledgement, which never comes if its process ends.
        """
        self.exchange("end", rank, world_size, None)

    def discard(self, step: int) -> None:
        """Remove the receipts of `step`, which its manifest has made superfluous."""
        shutil.rmtree(self._path(str(step), 0).parent)

    def _read_all(self, occasion: str, world_size: int) -> list[Any]:
        self._wait_for_all(occasion, world_size)
        return [json.loads(self._path(occasion, rank).read_bytes()) for rank in range(world_size)]

    def _wait_for_all(self, occasion: str, world_size: int) -> None:
        deadline = time.monotonic() + self._patience
        missing = set(range(world_size))
        while missing := {rank for rank in missing if not self._path(occasion, rank).exists()}:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"expected the receipts of all {counted(world_size, 'rank')} for {occasion!r} within "
                    f"{self._patience:.0f} s, "
                    f"but ranks {sorted(missing)} left none; look into their logs, and at the space in "
                    f"{self._folder.parent}"
                )
            time.sleep(_POLL_SECONDS)

    def _write(self, occasion: str, rank: int, document: Any) -> None:
        atomic.write_text(self._path(occasion, rank), json.dumps(document))

    def _path(self, occasion: str, rank: int) -> Path:
        return self._folder / occasion / f"rank_{rank}.json"
