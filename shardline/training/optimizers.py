"""MindSpore's optimizers as a run's parameters choose them: learning rate by the step, and decoupled weight decay.

Optimizers count steps in `global_step`, which is saved with them: schedules are functions of it, and resume with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as types
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from shardline.settings.run_config import RunConfig


class WarmUpAndDecay(LearningRateSchedule):
    """The learning rate by the step, from 0: it rises evenly over `warmup` steps, and then stays or decays.

    Step s < warmup has rate × (s + 1) / warmup. `decay` goes along half a cosine to 0 at the step `total`.
    """

    def __init__(self, rate: float, warmup: int, total: int, *, decay: bool) -> None:
        super().__init__()
        self.rate, self.warmup, self.decay = rate, float(max(warmup, 1)), decay
        self.first = float(warmup)
        self.steps = float(max(total - warmup, 1))
        self.minimum, self.cosine, self.cast, self.relu = ops.Minimum(), ops.Cos(), ops.Cast(), ops.ReLU()
        self.one = Tensor(1.0, types.float32)

    def construct(self, global_step: Any) -> Any:
        step = self.cast(global_step, types.float32)
        rate = self.rate * self.minimum((step + 1.0) / self.warmup, self.one)
        if self.decay:
            passed = self.minimum(self.relu(step - self.first) / self.steps, self.one)
            rate = rate * 0.5 * (1.0 + self.cosine(pi * passed))
        return rate


class WeightDecay(nn.Cell):
    """Takes rate × decay × weight off each of `weights`, apart from the gradients, as AdamW does.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """

    def __init__(self, weights: Sequence[Parameter], decay: float) -> None:
        super().__init__(auto_prefix=False)
        self.weights, self.decay = ParameterTuple(weights), decay
        self.map = ops.HyperMap()

    def construct(self, rate: Any) -> Any:
        return ops.depend(rate, self.map(ops.partial(_decayed, rate * self.decay), self.weights))


def _decayed(part: Any, weight: Any) -> Any:
    return ops.assign_sub(weight, part * weight)


def optimizer_of(network: nn.Cell, config: RunConfig, total_steps: int) -> nn.Optimizer:
    """The optimizer of all of `network`'s parameters; its schedule ends at step `total_steps`."""
    parameters, rate = network.trainable_params(), _learning_rate(config, total_steps)
    if config.optimizer in ("Adam", "AdamW"):
        return nn.Adam(parameters, rate)
    if config.optimizer == "Momentum":
        return nn.Momentum(parameters, rate, config.momentum)
    return nn.SGD(parameters, rate)


def _learning_rate(config: RunConfig, total_steps: int) -> float | WarmUpAndDecay:
    if config.schedule == "constant" and config.warmup_steps == 0:
        return config.learning_rate
    return WarmUpAndDecay(config.learning_rate, config.warmup_steps, total_steps, decay=config.schedule == "cosine")
