"""What belongs to one rank's training run and is asked for everywhere in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardline.parallel.single_device import SingleDevice
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.training.provenance import Provenance
from shardline.training.receipts import Receipts


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """One rank of a training run: where it runs, as what, with what, and how it meets the other ranks."""

    run: RunDirectory
    config: RunConfig
    backend: SingleDevice
    receipts: Receipts
    cell: Any
    """The compiled training step, with this rank's slices of all parameters and optimizer states."""
    provenance: Provenance
