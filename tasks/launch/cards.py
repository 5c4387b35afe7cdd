"""Which cards this host shows, as far as that can be known without MindSpore."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.errors import ConfigError, LaunchError

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
            f"world_size {world_size} with device_target {device_target}: this host has {present} cards, "
            f"{visible} of them visible{limit}; ask for at most {visible}"
        )


def _narrowed(visible: str | None, present: int) -> int:
    """How many cards a variable such as `0,2,4-7` leaves; names (GPU-8f3a…) count as one each."""
    if visible is None:
        return present
    cards = 0
    for part in filter(None, (part.strip() for part in visible.split(","))):
        if part == "-1":  # CUDA takes no card from here on
            break
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        cards += int(span[2]) - int(span[1]) + 1 if span else 1
    return cards
