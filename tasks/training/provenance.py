"""What a run's shard sets were made with: two small files beside them, named by the digests that manifests carry.

src_checkpoints/provenance/strategy-DIGEST          the strategy file; resharding and merging need the one of their set
src_checkpoints/provenance/configuration-DIGEST     whatever decided the weights (`tasks.training.compatibility`), JSON

A run that goes on with other ranks or strategies leaves several of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3

from tasks import atomic
from tasks.run_directory import RunDirectory
from tasks.training.compatibility import digest_of


@dataclass(frozen=True)
class Provenance:
    """What the shard sets of this try are made with: the strategy file's content, and what decides the weights."""

    strategy: bytes
    configuration: Mapping[str, Any]

    @cached_property
    def strategy_digest(self) -> str:
        return str(blake3(self.strategy).hexdigest())

    @cached_property
    def configuration_digest(self) -> str:
        return digest_of(self.configuration)

    def write(self, run: RunDirectory, strategy_file: Path) -> None:
        """Leave both files, and the strategy as the run's own `strategy_file`, where they are not there yet."""
        configuration = json.dumps(self.configuration, indent=1, sort_keys=True) + "\n"
        for file, content in (
            (run.strategy_saved_with(self.strategy_digest), self.strategy),
            (run.configuration_saved_with(self.configuration_digest), configuration.encode()),
            (strategy_file, self.strategy),
        ):
            if not file.is_file() or file.read_bytes() != content:
                atomic.write_bytes(file, content)
