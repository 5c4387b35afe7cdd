"""One step of training as a MindSpore cell: forward, loss, backward, clipping, weight decay, optimizer.

A step gives three float32 scalars: the loss of the batch before the update, the learning rate, and the global norm of
the gradients before clipping. All come out of the one launch of the graph: recording them costs next to nothing.
"""

from __future__ import annotations

from typing import Any

from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore import dtype as types

from tasks.config import RunConfig
from tasks.parallel.backend import SingleDevice
from tasks.training.optimizers import WeightDecay, optimizer_of

_LOSS_SCALE = {"float32": 1.0, "bfloat16": 1.0, "float16": 1024.0}
"""What the loss is multiplied with on the way back: float16 would drop small cotangents. The step divides again."""


class TrainStep(nn.Cell):
    """Takes samples and labels int32 of one batch, and updates the network's parameters."""

    def __init__(self, network: nn.Cell, config: RunConfig, backend: SingleDevice, total_steps: int) -> None:
        super().__init__(auto_prefix=False)
        weights = network.trainable_params()
        self.network = network
        self.loss = CrossEntropy(network).set_grad()
        self.weights = ParameterTuple(weights)
        self.gradients_of = ops.GradOperation(get_by_list=True, sens_param=True)
        self.sensitivity = Tensor(_LOSS_SCALE[config.precision], types.float32)
        self.scale = 1 / _LOSS_SCALE[config.precision]
        self.norm_of = GlobalNorm(tuple(backend.replicas(weight.name) for weight in weights), backend.sum_over_ranks())
        self.clip_norm = config.clip_norm
        self.maximum = ops.Maximum()
        self.optimizer = optimizer_of(network, config, total_steps)
        self.decay = None
        if config.optimizer == "AdamW":
            self.decay = WeightDecay([weight for weight in weights if len(weight.shape) > 1], config.weight_decay)

    def construct(self, samples: Any, labels: Any) -> tuple[Any, Any, Any]:
        loss = self.loss(samples, labels)
        gradients = self.gradients_of(self.loss, self.weights)(samples, labels, self.sensitivity)
        norm = self.norm_of(gradients) * self.scale
        factor = self.scale
        if self.clip_norm is not None:
            factor = factor * self.clip_norm / self.maximum(norm, self.clip_norm)
        if self.clip_norm is not None or self.scale != 1:
            gradients = _scaled(gradients, factor)
        rate = ops.cast(self.optimizer.get_lr(), types.float32)
        if self.decay is not None:
            rate = self.decay(rate)
        loss = ops.depend(loss, self.optimizer(gradients))
        return loss, rate, norm


class CrossEntropy(nn.Cell):
    """The mean over all labels int32 [...] of the softmax cross entropy of the network's logits [..., classes]."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = nn.CrossEntropyLoss()
        self.reshape = ops.Reshape()

    def construct(self, samples: Any, labels: Any) -> Any:
        logits = self.network(samples)
        if logits.ndim > 2:
            logits, labels = self.reshape(logits, (-1, logits.shape[-1])), self.reshape(labels, (-1,))
        return self.loss(logits, labels)


class GlobalNorm(nn.Cell):
    """The norm of all gradients together, each slice counted once: a rank counts its share of those it has in common.

    `replicas` says for every gradient how many ranks hold the same slice. `total` sums over all ranks.
    """

    def __init__(self, replicas: tuple[int, ...], total: Any) -> None:
        super().__init__()
        self.shares = tuple(1 / number for number in replicas)
        self.total = total
        self.zero = Tensor([0.0], types.float32)
        self.square, self.sum, self.sqrt = ops.Square(), ops.ReduceSum(), ops.Sqrt()

    def construct(self, gradients: Any) -> Any:
        squares = self.zero
        for share, gradient in zip(self.shares, gradients):  # noqa: B905 - the graph compiler knows no strict
            squares = squares + share * self.sum(self.square(gradient))
        return self.sqrt(self.total(squares) if self.total is not None else squares).reshape(())


def _scaled(gradients: Any, factor: Any) -> Any:
    scaled: tuple[Any, ...] = ()
    for gradient in gradients:
        scaled += (gradient * factor,)
    return scaled


def train_step(network: nn.Cell, config: RunConfig, backend: SingleDevice, total_steps: int) -> TrainStep:
    """The compiled-to-be step of a run whose schedule ends after `total_steps`."""
    step: TrainStep = TrainStep(network, config, backend, total_steps).set_train()
    return step
