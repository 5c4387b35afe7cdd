"""The cells of `tests.cells` trained as anyone would with MindSpore: one process, unsharded, nothing exported.

    python -m tests.plain_cells RUNS.json OUTPUT.npz

RUNS is a list: `name`, `steps`, and `parameters`, those of a `RunConfig` with Momentum.
"""

import json
import sys
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, nn

from shardline.recipes.factories import declared
from shardline.settings.run_config import RunConfig
from tests.plain_training import samples_of


class Loss(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network, self.loss = network, nn.CrossEntropyLoss()

    def construct(self, samples, labels):
        logits = self.network(samples)
        return self.loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def losses(run):
    config = RunConfig(**run["parameters"])
    network = declared(config).network
    mindspore.set_seed(config.seed)
    cell = network.build()
    optimizer = nn.Momentum(cell.trainable_params(), config.learning_rate, config.momentum)
    step = nn.TrainOneStepCell(Loss(cell), optimizer).set_train()
    samples, labels = samples_of(network.name)
    order = np.random.default_rng([config.seed, 1]).permutation(len(labels))
    batches = order[: run["steps"] * config.batch_size].reshape(run["steps"], config.batch_size)
    return [float(step(Tensor(samples[chosen]), Tensor(labels[chosen])).asnumpy()) for chosen in batches]


def main():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    np.savez(sys.argv[2], **{run["name"]: losses(run) for run in json.loads(Path(sys.argv[1]).read_text())})


if __name__ == "__main__":
    main()
