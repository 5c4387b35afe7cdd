"""What would certainly fail later is refused before mpirun starts."""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

from tasks import networks
from tasks.config import RunConfig
from tasks.errors import LaunchError
from tasks.launch import cards
from tasks.run_directory import RunDirectory

MASTER_ADDRESS = "127.0.0.1"

# A rank of MindSpore 2.10 has 120 to 140 MB of its own once it has imported the framework; it shares the other 250.
_LEAST_MEMORY_A_RANK = 100 * 2**20
# Logs and records of a rank, before its first checkpoint.
_LEAST_DISK_A_RANK = 64 * 2**10
_CGROUP = Path("/sys/fs/cgroup")
# Below the kernel's ephemeral ports (from 32768), where a connection of anybody's could take the number meanwhile.
_PORTS = range(20000, 32000)


def check(
    module: str, config: RunConfig, directory: RunDirectory, world_size: int, environment: Mapping[str, str]
) -> None:
    """Raise `ConfigError` for parameters that can't work here, `LaunchError` for what may be different next time."""
    if importlib.util.find_spec(module) is None:
        raise LaunchError(f"no module {module}; expected one such as tasks.train, or one that PYTHONPATH leads to")
    if module == "tasks.train" and config.strategy_load_file is None:  # ranks check the file that they load
        networks.check(config)
    cards.check(config.device_target, world_size, environment)
    check_memory(world_size, available_memory())
    check_disk(directory.path, world_size)


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


def check_memory(world_size: int, available: int) -> None:
    """Raise `LaunchError` where `world_size` ranks can't even import the framework."""
    needed = world_size * _LEAST_MEMORY_A_RANK
    if available < needed:
        raise LaunchError(
            f"world_size {world_size}: the ranks need at least {needed / 2**30:.1f} GiB of memory before training "
            f"starts, this host has {available / 2**30:.1f} GiB left; ask for fewer ranks, or free memory"
        )


def check_disk(folder: Path, world_size: int) -> None:
    """Raise `LaunchError` where `folder` can't be written, or has no room for the ranks' logs."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        with probe.open("wb") as stream:
            stream.write(bytes(world_size * _LEAST_DISK_A_RANK))
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


def master_port(config: RunConfig) -> int:
    """The port on which rank 0 will listen: `config.master_port`, or one that is free now."""
    if config.master_port is not None:
        if not _is_free(config.master_port):
            raise LaunchError(
                f"master_port {config.master_port} is in use{_user_of(config.master_port)}; "
                "end that process, choose another port, or leave master_port empty for any free one"
            )
        return config.master_port
    for port in random.sample(_PORTS, k=len(_PORTS)):
        if _is_free(port):
            return port
    raise LaunchError(f"no free port between {_PORTS.start} and {_PORTS.stop}; set master_port to one that is")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As rank 0 will do: connections of an earlier try that are only timing out don't count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _user_of(port: int) -> str:
    """Who listens on `port`, as far as this user may know."""
    try:
        owners = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid
        }
        names = [f"{psutil.Process(pid).name()} (process {pid})" for pid in sorted(owners)]
    except psutil.Error:
        return ""
    return f" by {', '.join(names)}" if names else ""
