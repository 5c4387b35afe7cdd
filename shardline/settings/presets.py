"""Presets of the trigger form: names for sets of parameters that go well together.

A parameter that differs from its default wins over the preset. So a preset is where to start from, a form that sends
every field and a document that names a few mean the same, and only a default cannot be chosen against a preset: choose
`none` for that.
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
    "none": Preset("None: as below"),
    "quick": Preset(
        "Quick CPU check: 4 cards, 1 epoch",
        {"device_target": "CPU", "world_size": 4, "epochs": 1, "min_accuracy": 0.5},
    ),
    "tutorial": Preset("MindSpore's tutorial: 8 cards, 10 epochs", {"world_size": 8, "epochs": 10, "batch_size": 32}),
    "ascend": Preset("8 Ascend cards", {"device_target": "Ascend", "world_size": 8}),
}


def description() -> str:
    """What each preset sets, for the form's help."""
    sets = (
        f"**{name}** sets {', '.join(f'{key} {value}' for key, value in preset.parameters.items())}"
        for name, preset in PRESETS.items()
        if preset.parameters
    )
    return f"Where to start from; whatever you change below wins over it. {'. '.join(sets)}."
