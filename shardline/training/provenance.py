"""What a run's shard sets were made with: two small files beside them, named by the digests that manifests carry.

src_checkpoints/provenance/strategy-DIGEST          the strategy file; resharding and merging need the one of their set.
                                                    Of several pipeline stages, their strategies in one file
src_checkpoints/provenance/configuration-DIGEST     whatever decided the weights (`compatibility`), JSON

A run that goes on with other ranks or strategies leaves several of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blake3 import blake3

from shardline.base import atomic
from shardline.checkpoint.strategy.strategy_file import joined_stages, read_strategy, write_strategy
from shardline.networks.train_spec import Network
from shardline.parallel.single_device import SingleDevice
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.training.compatibility import decisive, digest_of


@dataclass(frozen=True)
class Provenance:
    """What the shard sets of this try are made with: the strategy file's content, and what decides the weights.

    `stages` are the contents of several pipeline stages' files, which `strategy` has in one.
    """

    strategy: bytes
    configuration: Mapping[str, Any]
    stages: tuple[bytes, ...] = ()

    @cached_property
    def strategy_digest(self) -> str:
        return str(blake3(self.strategy).hexdigest())

    @cached_property
    def configuration_digest(self) -> str:
        return digest_of(self.configuration)

    def write(self, run: RunDirectory, config: RunConfig) -> None:
        """Leave both files, and the strategies as the run's own files, where they are not there yet."""
        configuration = json.dumps(self.configuration, indent=1, sort_keys=True) + "\n"
        for file, content in (
            (run.strategy_saved_with(self.strategy_digest), self.strategy),
            (run.configuration_saved_with(self.configuration_digest), configuration.encode()),
            *((run.stage_strategy_file(config, stage), content) for stage, content in enumerate(self.stages)),
            (run.strategy_file(config), self.strategy),
        ):
            if not file.is_file() or file.read_bytes() != content:
                atomic.write_bytes(file, content)
        stage = len(self.stages)
        while (of_an_earlier_try := run.stage_strategy_file(config, stage)).is_file():
            of_an_earlier_try.unlink()
            stage += 1


def provenance_of(run: RunDirectory, config: RunConfig, network: Network, backend: SingleDevice) -> Provenance:
    """What this try makes shard sets with, when its step is compiled; the same on all ranks, who all call this."""
    configuration = decisive(config, network.parameters(), run.dataset_digest())
    files = [run.path / ".strategy" / f"rank_{rank}" / config.strategy_save_file for rank in range(config.world_size)]
    backend.write_strategy(network, files[backend.rank])
    if config.pipeline_stages == 1:
        return Provenance(files[backend.rank].read_bytes(), configuration)
    backend.barrier()  # each stage's is written by its ranks
    stages = files[:: config.ranks_per_stage]
    joined = files[backend.rank].with_name(f"joined_{config.strategy_save_file}")
    write_strategy(joined_stages([read_strategy(file) for file in stages]), joined)
    return Provenance(joined.read_bytes(), configuration, tuple(file.read_bytes() for file in stages))
