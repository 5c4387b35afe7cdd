"""One step of training as a MindSpore cell: forward, loss, backward, optimizer."""

from __future__ import annotations

from mindspore import nn

from tasks.config import RunConfig


def train_step(network: nn.Cell, config: RunConfig) -> nn.TrainOneStepCell:
    """The cell that takes samples and labels int32 [batch], updates the parameters, and gives the mean loss."""
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.CrossEntropyLoss()), _optimizer(network, config))
    return step.set_train()


def _optimizer(network: nn.Cell, config: RunConfig) -> nn.Optimizer:
    parameters = network.trainable_params()
    if config.optimizer == "Adam":
        return nn.Adam(parameters, config.learning_rate)
    if config.optimizer == "Momentum":
        return nn.Momentum(parameters, config.learning_rate, config.momentum)
    return nn.SGD(parameters, config.learning_rate)
