"""What is known of one step of training."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is known of one step: its place, what it computed, and how many samples it took in how many seconds."""

    step: int
    epoch: int
    step_in_epoch: int
    loss: float
    learning_rate: float | None = None
    gradient_norm: float | None = None
    validation_loss: float | None = None
    """Of the network after the step, on held-out samples; where that was asked for."""
    samples: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        return round(self.samples / self.seconds, 1)

    def numbers(self) -> dict[str, float]:
        """What is known of what the step did, by the names of `metrics.jsonl`."""
        known = {
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            "validation_loss": self.validation_loss,
            "samples_per_second": self.samples_per_second,
        }
        return {name: value for name, value in known.items() if value is not None}

    def to_json(self) -> str:
        return json.dumps({"step": self.step, "epoch": self.epoch, **self.numbers()})

    def __str__(self) -> str:
        norm = "" if self.gradient_norm is None else f", gradient norm {self.gradient_norm:.3g}"
        rate = "" if self.learning_rate is None else f", learning rate {self.learning_rate:.3g}"
        held_out = "" if self.validation_loss is None else f", on held-out samples {self.validation_loss:.4f}"
        place = f"epoch: {self.epoch} step: {self.step_in_epoch}, loss is {self.loss:.4f}"
        return f"{place}{held_out}{rate}{norm}, {self.samples_per_second:.0f} samples/s"
