"""Joining the ranks on the CPU, without MindSpore's scheduler process: rank 0 serves a key-value store to the others.

`mpirun -n N python …` with a plain `init()` fails on the CPU in MindSpore 2.10, which expects a scheduler beside the
ranks. `_init_with_store` needs none; it is private, so its absence in another version is reported by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import mindspore
from mindspore import Tensor, nn, ops
from mindspore.communication import GlobalComm, create_group, get_group_size

from shardline.base.errors import LaunchError, TrainingError

_JOINING = timedelta(minutes=5)
_PATIENCE_SECONDS = 1800
"""How long a collective waits for the slowest rank. MindSpore's own 30 s are less than what a busy machine's ranks lie
apart; a rank that died or hangs is the launcher's to notice."""


def join(rank: int, world_size: int, environment: Mapping[str, str] = os.environ) -> None:
    """Join `world_size` ranks at SHARDLINE_MASTER_ADDRESS and SHARDLINE_MASTER_PORT, where rank 0 listens."""
    address, port = _master(environment)
    os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", str(_PATIENCE_SECONDS))
    store_class, init_with_store = _private_functions()
    try:
        store = store_class(address, port, world_size, rank == 0, _JOINING)
        init_with_store(backend="mccl", timeout=_JOINING, world_size=world_size, rank=rank, store=store)
    except RuntimeError as error:
        raise LaunchError(
            f"rank {rank} cannot join the other {world_size - 1} at {address}:{port}: {str(error).splitlines()[0]}; "
            "expected a free port that every host of the run reaches: set master_port, or leave it empty"
        ) from error


def _master(environment: Mapping[str, str]) -> tuple[str, int]:
    try:
        return environment["SHARDLINE_MASTER_ADDRESS"], int(environment["SHARDLINE_MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise LaunchError(
            "SHARDLINE_MASTER_ADDRESS and SHARDLINE_MASTER_PORT must say where rank 0 listens: "
            f"{error}; `python -m tasks.launch tasks.train` sets them"
        ) from error


def _private_functions() -> tuple[Callable[..., Any], Callable[..., None]]:
    try:
        from mindspore.communication.management import _init_with_store
        from mindspore.mint.distributed import TCPStore
    except ImportError as error:
        raise TrainingError(
            f"sharded training on the CPU needs _init_with_store and TCPStore of MindSpore 2.10, found MindSpore "
            f"{mindspore.__version__} ({error}); install the version in requirements.txt"
        ) from error
    return TCPStore, _init_with_store


@cache
def group_of(ranks: tuple[int, ...]) -> str:
    """The name of the communication group of `ranks`, which is created when it is first asked for."""
    if len(ranks) == get_group_size():
        return str(GlobalComm.WORLD_COMM_GROUP)
    name = "ranks_" + "_".join(str(rank) for rank in ranks)
    create_group(name, list(ranks))
    return name


class _Sum(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: Any) -> Any:
        return self.all_reduce(x)


@cache
def _sum() -> _Sum:
    return _Sum()


def total(values: Sequence[float]) -> list[float]:
    """The sums of `values` over all ranks, in float32."""
    sums: list[float] = _sum()(Tensor(list(values), mindspore.float32)).asnumpy().tolist()
    return sums
