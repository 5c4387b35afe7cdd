"""Noticing that training has gone wrong, on all ranks at the same step, before anything of it is saved."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from math import isfinite
from typing import Any

from shardline.base.counts import counted, of_count
from shardline.base.errors import TrainingError
from shardline.training.saving import non_finite

_MEDIAN_OF = 50
_FEWEST = 10


class Health:
    """Judges each step's loss and gradient norm, which are the same on all ranks.

    NaN and infinity always end training; with `spike_factor`, so does a loss that many times the median of the last 50
    steps (from the tenth on). `parameters` are those that the rank trains, states included.
    """

    def __init__(self, parameters: Sequence[Any], rank: int, spike_factor: float | None) -> None:
        self._parameters, self._rank, self._spike_factor = parameters, rank, spike_factor
        self._recent: deque[float] = deque(maxlen=_MEDIAN_OF)

    def check(self, where: str, loss: float, gradient_norm: float | None) -> None:
        """`TrainingError` where the step `where` went wrong, with the first parameter in question."""
        if not isfinite(loss):
            raise self._error(where, f"the loss is {loss}, expected a finite number")
        if gradient_norm is not None and not isfinite(gradient_norm):
            raise self._error(where, f"the gradient's norm is {gradient_norm}, expected a finite number")
        if self._spike_factor is not None and len(self._recent) >= _FEWEST:
            median = statistics.median(self._recent)
            if loss > self._spike_factor * median:
                raise self._error(
                    where,
                    f"the loss is {loss:.4g}, more than loss_spike_factor {self._spike_factor:g} times {median:.4g}, "
                    f"the median of the last {len(self._recent)} steps",
                )
        self._recent.append(loss)

    def _error(self, where: str, found: str) -> TrainingError:
        return TrainingError(
            f"{where}: {found}. {self._culprit()}. Nothing is saved of this step, and the shard sets before are kept: "
            "lower learning_rate, or look at the batch of this step, and start a new run"
        )

    def _culprit(self) -> str:
        """Which parameters this step's update has spoilt: those whose gradients were not finite."""
        names, ours = non_finite(self._parameters), f"on rank {self._rank}"
        if not names:
            return f"After it, all parameters {ours} are finite still"
        total = counted(len(self._parameters), "parameter or state", "parameters and states")
        are = of_count(len(names), "is", "are")
        return f"After it, {len(names)} of {total} {ours} {are} not finite, the first is {names[0]}"
