"""Which cards this host shows, as far as that can be known without MindSpore, and which of them the ranks see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shardline.base.counts import counted, of_count
from shardline.base.errors import ConfigError, LaunchError

DeviceTarget = Literal["CPU", "GPU", "Ascend"]


@dataclass(frozen=True)
class Kind:
    """How the driver of a kind of card shows them, and which variable narrows them down.

    Sources: the NVIDIA driver's device files (`/dev/nvidia0`, …) and CUDA_VISIBLE_DEVICES; Ascend's driver
    (`/dev/davinci0`, …) and CANN's ASCEND_RT_VISIBLE_DEVICES, single numbers or ranges such as 0-3.
    """

    device_file: re.Pattern[str]
    variable: str
    shown_by: str


KINDS: Mapping[str, Kind] = {
    "GPU": Kind(re.compile(r"nvidia\d+"), "CUDA_VISIBLE_DEVICES", "nvidia-smi"),
    "Ascend": Kind(re.compile(r"davinci\d+"), "ASCEND_RT_VISIBLE_DEVICES", "npu-smi info"),
}


def check(
    device_target: DeviceTarget, world_size: int, environment: Mapping[str, str], devices: Path = Path("/dev")
) -> None:
    """Raise unless this host shows at least `world_size` cards of the kind `device_target`; the CPU needs none."""
    if device_target == "CPU":
        return
    if device_target == "Ascend" and environment.get("RANK_TABLE_FILE"):
        raise LaunchError(
            f"RANK_TABLE_FILE={environment['RANK_TABLE_FILE']} is set, which MindSpore doesn't take together with "
            "mpirun: unset it; several hosts are named by the parameter hostfile"
        )
    kind = KINDS[device_target]
    present = sum(1 for file in devices.iterdir() if kind.device_file.fullmatch(file.name))
    if present == 0:
        raise LaunchError(
            f"device_target {device_target}: this host shows no card (no file {devices}/{kind.device_file.pattern}); "
            f"see what `{kind.shown_by}` says, pass the devices into the container, or set device_target to CPU"
        )
    visible = min(present, _narrowed(environment.get(kind.variable), present))
    if visible < world_size:
        limit = f" ({kind.variable}={environment[kind.variable]})" if visible < present else ""
        raise ConfigError(
            f"world_size {world_size} with device_target {device_target}: this host has {counted(present, 'card')}, "
            f"{visible} of them visible{limit}; ask for at most {visible}"
        )


def selection(
    device_target: DeviceTarget, leased: Sequence[int], ranks: int, environment: Mapping[str, str]
) -> dict[str, str]:
    """The variable that shows this host's `ranks` the `leased` cards and no others; the CPU has none.

    The rank that is the Nth of its host takes the Nth card that it sees (`shardline.parallel.single_device`). Where the
    variable is set already, cards are counted among those that it leaves. `ConfigError` where there are too few.
    """
    if device_target == "CPU" or not ranks:
        return {}
    variable = KINDS[device_target].variable
    names = list(_named(environment[variable])) if variable in environment else None
    if len(leased) < ranks or (names is not None and max(leased) >= len(names)):
        raise ConfigError(
            f"{counted(ranks, 'rank')} of this host on {device_target} "
            f"{of_count(ranks, 'needs a card', 'need a card each')}; expected as many in SHARDLINE_CARDS or "
            f"SHARDLINE_DEVICE_SLOTS, found cards {', '.join(map(str, leased))}"
            + ("" if names is None else f" of {variable}={environment[variable]}")
        )
    return {variable: ",".join(str(card) if names is None else names[card] for card in leased)}


def _narrowed(visible: str | None, present: int) -> int:
    """How many cards a variable such as `0,2,4-7` leaves."""
    return present if visible is None else sum(1 for _ in _named(visible))


def _named(visible: str) -> Iterator[str]:
    """The cards of a variable such as `0,2,4-7`, one by one; names (GPU-8f3a…) stand for one each."""
    for part in filter(None, (part.strip() for part in visible.split(","))):
        if part == "-1":  # CUDA takes no card from here on
            return
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        yield from map(str, range(int(span[1]), int(span[2]) + 1)) if span else (part,)
