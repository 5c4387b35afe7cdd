"""Presets of the trigger form: names for sets of parameters that go well together.

A preset gives a parameter where nothing else does: whatever is given beside it wins. So the form leaves the fields that
presets set empty, and says below each what an empty one becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """What the form calls it, and the parameters that it sets."""

    label: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


PRESETS: Mapping[str, Preset] = {
    "none": Preset("No preset: 8 cards, 5 epochs"),
    "quick": Preset(
        "Quick CPU check: 4 cards, 1 epoch",
        {"device_target": "CPU", "world_size": 4, "epochs": 1, "min_accuracy": 0.5},
    ),
    "tutorial": Preset("MindSpore's tutorial: 8 cards, 10 epochs", {"world_size": 8, "epochs": 10}),
    "ascend": Preset("8 Ascend cards", {"device_target": "Ascend", "world_size": 8}),
}


def description() -> str:
    """What each preset sets, for the form's help."""
    sets = (
        f"**{name}** sets {', '.join(f'{key} {value}' for key, value in preset.parameters.items())}"
        for name, preset in PRESETS.items()
        if preset.parameters
    )
    return f"Where to start from; whatever you fill in below wins over it. {'. '.join(sets)}."


def values_of(name: str, default: Any) -> dict[str, Any]:
    """What the parameter `name` is by default, and with each preset that makes it something else."""
    values = {preset: PRESETS[preset].parameters.get(name, default) for preset in PRESETS}
    return {preset: value for preset, value in values.items() if preset == "none" or value != default}


def preset_parameters() -> list[str]:
    """The parameters that some preset sets."""
    return list(dict.fromkeys(name for preset in PRESETS.values() for name in preset.parameters))
