"""One step of training as a MindSpore cell: forward, loss, backward, clipping, weight decay, optimizer.

A step gives three float32 scalars: the loss of the batch before the update, the learning rate, and the global norm of
the gradients before clipping, which CPUs measure where it is wanted alone (`TrainStep.measure_norm`). All come out of
the one launch of the graph.

With pipeline stages, the batch goes through the network in micro-batches. MindSpore's compiler takes out of each rank's
step whatever depends on other stages' parameters, up to the next tuple: so gradients meet in tuples and `AddN` alone.
"""

from __future__ import annotations

from typing import Any

from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore import dtype as types
from mindspore.parallel.nn import Pipeline

from shardline.checkpoint.strategy.strategy_file import ACCUMULATED
from shardline.parallel.cells import RootCell
from shardline.parallel.single_device import SingleDevice
from shardline.parallel.squares import Squares
from shardline.settings.run_config import RunConfig
from shardline.training.cross_entropy import MeanCrossEntropy
from shardline.training.optimizers import WeightDecay, optimizer_of

_LOSS_SCALE = {"float32": 1.0, "bfloat16": 1.0, "float16": 1024.0}
"""What the loss is multiplied with on the way back: float16 would drop small cotangents. The step divides again."""


class TrainStep(RootCell):
    """Takes samples and labels int32 of one batch, and updates the network's parameters."""

    def __init__(self, network: nn.Cell, config: RunConfig, backend: SingleDevice, total_steps: int) -> None:
        super().__init__(auto_prefix=False)
        weights = network.trainable_params()
        self.network = network
        self.loss = self.forward(network, config).set_grad()
        self.weights = ParameterTuple(weights)
        self.gradients_of = ops.GradOperation(get_by_list=True, sens_param=True)
        self.sensitivity = Tensor(_LOSS_SCALE[config.precision], types.float32)
        self.scale = 1 / _LOSS_SCALE[config.precision]
        self.shares = tuple(1 / backend.replicas(weight.name) for weight in weights)
        self.squares_of = backend.sum_of_squares(self.shares)
        self.sqrt = ops.Sqrt()
        self.scaled = ops.Map()
        self.clip_norm = config.clip_norm
        self.maximum = ops.Maximum()
        self.optimizer = optimizer_of(network, config, total_steps)
        self.decay = None
        if config.optimizer == "AdamW":
            self.decay = WeightDecay([weight for weight in weights if len(weight.shape) > 1], config.weight_decay)

    def forward(self, network: nn.Cell, config: RunConfig) -> nn.Cell:
        """What takes samples and labels, and gives the loss to minimise."""
        return CrossEntropy(network, config)

    def construct(self, samples: Any, labels: Any) -> tuple[Any, Any, Any]:
        loss = self.loss(samples, labels)
        gradients = self.gradients_of(self.loss, self.weights)(samples, labels, self.sensitivity)
        return self.updated(loss, gradients, self.norm(self.squares_of(gradients)))

    def measure_norm(self, wanted: bool) -> bool:
        """Whether the outcome of the next step has the norm: where it is `wanted`, needed, or costs nothing.

        Where it has not, it is NaN.
        """
        measured: bool = self.squares_of.measure(wanted or self.clip_norm is not None)
        return measured

    def norm(self, squares: Any) -> Any:
        """The norm of all gradients, of the sum of all squares [1]."""
        norm = self.sqrt(squares).reshape(())
        return norm if self.scale == 1 else norm * self.scale

    def updated(self, loss: Any, gradients: Any, norm: Any) -> tuple[Any, Any, Any]:
        """The outcome of a step, when the parameters are updated."""
        factor = self.scale
        if self.clip_norm is not None:
            factor = factor * self.clip_norm / self.maximum(norm, self.clip_norm)
        if self.clip_norm is not None or self.scale != 1:
            gradients = self.scaled(ops.partial(_product, factor), gradients)
        rate = ops.cast(self.optimizer.get_lr(), types.float32)
        if self.decay is not None:
            rate = self.decay(rate)
        loss = ops.depend(loss, self.optimizer(gradients))
        return loss, rate, norm


class StagedTrainStep(TrainStep):
    """A step of a network in several pipeline stages, as MindSpore's own of `Model.train`.

    Every micro-batch's gradients are added to parameters of the name `accu_grads.WEIGHT`, which the compiler finds by
    that name. Only the last stage has a loss, elsewhere it is 0: summed with the squares of the gradients over all
    ranks, in one AllReduce, it is known everywhere.
    """

    def __init__(self, network: nn.Cell, config: RunConfig, backend: SingleDevice, total_steps: int) -> None:
        super().__init__(network, config, backend, total_steps)
        self.accumulated = self.weights.clone(prefix=ACCUMULATED.rstrip("."), init="zeros")
        self.is_accumulated_whole = not config.enable_parallel_optimizer
        self.losses_counted = config.ranks_per_stage * (config.micro_batches or config.pipeline_stages)
        self.scale = self.scale / (config.micro_batches or config.pipeline_stages)
        self.squares_here, self.total = Squares(self.shares), backend.sum_over_ranks()
        self.zero = Tensor([0.0], types.float32)
        self.apart = ops.Split(0, 2)
        self.cleared = ops.HyperMap()

    def forward(self, network: nn.Cell, config: RunConfig) -> nn.Cell:
        """The sum of the losses of all micro-batches."""
        return Pipeline(CrossEntropy(network, config), config.micro_batches or config.pipeline_stages)

    def construct(self, samples: Any, labels: Any) -> tuple[Any, Any, Any]:
        loss = self.loss(samples, labels)
        slices = self.gradients_of(self.loss, self.weights)(samples, labels, self.sensitivity)
        accumulated = ops.depend(self.accumulated, slices)
        gradients = accumulated if self.is_accumulated_whole else slices
        squares, losses = self.squares_here(gradients), self.zero + loss
        squares, losses = self.apart(self.total(ops.concat((squares, losses))))
        loss = losses.reshape(()) / self.losses_counted
        loss, rate, norm = self.updated(loss, gradients, self.norm(squares))
        return ops.depend(loss, self.cleared(_cleared, accumulated, slices)), rate, norm


class CrossEntropy(nn.Cell):
    """The mean over all labels int32 [...] of the softmax cross entropy of the network's logits [..., classes]."""

    def __init__(self, network: nn.Cell, config: RunConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = MeanCrossEntropy() if config.device_target == "CPU" else nn.CrossEntropyLoss()
        self.reshape = ops.Reshape()

    def construct(self, samples: Any, labels: Any) -> Any:
        logits = self.network(samples)
        if logits.ndim > 2:
            logits, labels = self.reshape(logits, (-1, logits.shape[-1])), self.reshape(labels, (-1,))
        return self.loss(logits, labels)


def _cleared(accumulated: Any, gradient: Any) -> Any:
    """Set the sum of a weight's gradients to 0, when `gradient` is there."""
    accumulated = ops.depend(accumulated, gradient)
    return ops.assign(accumulated, ops.zeros_like(accumulated))


def _product(factor: Any, gradient: Any) -> Any:
    return gradient * factor


def train_step(network: nn.Cell, config: RunConfig, backend: SingleDevice, total_steps: int) -> TrainStep:
    """The compiled-to-be step of a run whose schedule ends after `total_steps`."""
    kind = TrainStep if config.pipeline_stages == 1 else StagedTrainStep
    step: TrainStep = kind(network, config, backend, total_steps).set_train()
    return step
