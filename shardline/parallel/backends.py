"""Which backend a run asks for, and which of its ranks this process is."""

from __future__ import annotations

from collections.abc import Mapping

from shardline.base.errors import ConfigError
from shardline.networks.train_spec import Network
from shardline.parallel.single_device import SingleDevice
from shardline.settings.run_config import RunConfig


def backend_of(config: RunConfig, network: Network, rank: int) -> SingleDevice:
    """The backend that `config` asks for."""
    if config.world_size == 1:
        return SingleDevice(config, rank, network)
    if config.device_target == "CPU":
        from shardline.parallel.cpu.backend import CpuBackend

        return CpuBackend(config, rank, network)
    from shardline.parallel.semi_auto import SemiAutoBackend

    return SemiAutoBackend(config, rank, network)


def rank_of(environment: Mapping[str, str], world_size: int) -> int:
    """This process's rank as mpirun numbers it; `ConfigError` unless mpirun started `world_size` ranks."""
    found = int(environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    if found != world_size:
        raise ConfigError(
            f"world_size is {world_size}, but {found} {'rank runs' if found == 1 else 'ranks run'}; start with "
            "`python -m tasks.launch tasks.train --run-directory DIR`, which has mpirun start as many as it takes"
        )
    return int(environment.get("OMPI_COMM_WORLD_RANK", "0"))
