"""What would certainly fail later is refused before mpirun starts."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path

import psutil

from shardline.base.counts import counted, of_count
from shardline.base.errors import LaunchError
from shardline.launch import visible_cards
from shardline.networks.train_spec import Network
from shardline.parallel.layouts import OPTIMIZER_STATES
from shardline.recipes.lookup import check_network, network_of
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import TrainingConfig

TRAINING = "tasks.train"

# A rank of MindSpore 2.10 has 120 to 140 MB of its own once it has imported the framework; it shares the other 250.
_LEAST_MEMORY_A_RANK = 100 * 2**20
# Logs and records of a rank, before its first checkpoint.
_LEAST_DISK_A_RANK = 64 * 2**10
_CGROUP = Path("/sys/fs/cgroup")


def check(module: str, config: RunConfig | TrainingConfig, directory: RunDirectory) -> None:
    """What is the same on all hosts: module, parameters, drive.

    Raises `ConfigError` for parameters that can't work, `LaunchError` for what may be different next time.
    """
    if importlib.util.find_spec(module) is None:
        raise LaunchError(f"no module {module}; expected one such as tasks.train, or one that PYTHONPATH leads to")
    shard_set = 0
    if module == TRAINING and isinstance(config, RunConfig):
        network = network_of(config, directory.network_file)
        if config.strategy_load_file is None:  # ranks check the file that they load
            check_network(network, config)
        shard_set = model_bytes(network, config, copies=1)
    check_disk(directory.path, config.world_size * _LEAST_DISK_A_RANK, shard_set)


def check_host(
    device_target: visible_cards.DeviceTarget, ranks: int, memory: int, environment: Mapping[str, str]
) -> None:
    """What this host needs for its `ranks`: cards, and `memory` bytes for each."""
    visible_cards.check(device_target, ranks, environment)
    check_memory(ranks, memory, available_memory())


def memory_a_rank(module: str, config: RunConfig | TrainingConfig, directory: RunDirectory) -> int:
    """The bytes of this host's memory that a rank needs at least: more than that is certain to be needed.

    On the CPU a training has its share of weights, gradients and optimizer states there, shared out among the ranks as
    evenly as can be; on cards it has them on the card. With `save_behind` it copies there what it saves, too. Of what a
    described training needs, nothing is known.
    """
    if module != TRAINING or not isinstance(config, RunConfig):
        return _LEAST_MEMORY_A_RANK
    if config.device_target != "CPU" and not config.save_behind:
        return _LEAST_MEMORY_A_RANK
    network = network_of(config, directory.network_file)
    held = model_bytes(network, config, copies=2) // config.world_size if config.device_target == "CPU" else 0
    saved = model_bytes(network, config, copies=1) if config.save_behind else 0
    return _LEAST_MEMORY_A_RANK + held + (saved if config.integrated_save else saved // config.world_size)


def model_bytes(network: Network, config: RunConfig, *, copies: int) -> int:
    """The bytes of `copies` of the whole model's parameters and one of its optimizer's states, in float32."""
    parameters = sum(prod(shape) for shape in network.parameters().values())
    return 4 * parameters * (copies + len(OPTIMIZER_STATES[config.optimizer]))


def available_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that new processes can take: what the host has left, or the container's limit."""
    memory = psutil.virtual_memory().available + psutil.swap_memory().free
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:  # cgroup v1, or the root group: no limit to see
        return memory
    if limit == "max":
        return memory
    parts = {name: int(size) for name, size in (line.split() for line in lines)}
    page_cache = parts["file"] - parts["shmem"]  # counted as used, given up when processes want it
    return min(memory, int(limit) - used + page_cache)


def check_memory(ranks: int, memory: int, available: int) -> None:
    """Raise `LaunchError` where this host's `ranks` can't have `memory` bytes each."""
    if available < ranks * memory:
        raise LaunchError(
            f"{counted(ranks, 'rank')} {of_count(ranks, 'needs', 'need')} at least {memory / 2**30:.1f} GiB of memory "
            f"each, {ranks * memory / 2**30:.1f} GiB in all, this host has {available / 2**30:.1f} GiB left; ask for "
            "fewer ranks, a smaller network, or free memory"
        )


def check_disk(folder: Path, logs: int, shard_set: int = 0) -> None:
    """Raise `LaunchError` where `folder` can't be written, or has no room for `logs` and a shard set, in bytes."""
    free = shutil.disk_usage(folder).free
    if free < shard_set:
        raise LaunchError(
            f"a shard set takes at least {shard_set / 2**30:.1f} GiB, {folder} has {free / 2**30:.1f} GiB left; "
            "free some, or move SHARDLINE_HOME to a larger drive"
        )
    probe = folder / f".probe.{os.getpid()}"
    try:
        with probe.open("wb") as stream:
            stream.write(bytes(logs))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        remedy = (
            "free some, or move SHARDLINE_HOME to a larger drive"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "make it writable"
        )
        raise LaunchError(f"cannot write in the run directory {folder}: {error.strerror}; {remedy}") from error
    finally:
        probe.unlink(missing_ok=True)
