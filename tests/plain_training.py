"""The tutorial's network as anyone would train it with MindSpore: one process, nothing of `shardline`.

    python -m tests.plain_training SETTINGS.json OUTPUT.npz

The yardstick of sharded training, for its losses and (in benchmarks) for its speed. It shares with the project the
samples, their order, and the initial values; SETTINGS is a list of runs, each with optimizer, learning_rate, momentum,
batch_size, seed, steps, and layers as [name, inputs, outputs, relu].
"""

import json
import sys
import time
from functools import cache
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from shardline.datasets.digits import normalise
from shardline.datasets.embedded import Embedded
from shardline.networks.initial import uniform_slice


class Dense(nn.Cell):
    def __init__(self, name, inputs, outputs, relu, seed):
        super().__init__()
        self.weight = Parameter(initial(f"{name}.weight", (inputs, outputs), inputs, seed), name="weight")
        self.bias = Parameter(initial(f"{name}.bias", (outputs,), inputs, seed), name="bias")
        self.relu = relu

    def construct(self, x):
        y = ops.matmul(x, self.weight) + self.bias
        return ops.relu(y) if self.relu else y


def initial(name, shape, inputs, seed):
    whole = tuple(slice(0, size) for size in shape)
    return Tensor(uniform_slice(name, shape, whole, fan_in=inputs, seed=seed))


def train_step(settings):
    network = nn.SequentialCell(nn.Flatten(), *(Dense(*layer, settings["seed"]) for layer in settings["layers"]))
    parameters, rate = network.trainable_params(), settings["learning_rate"]
    optimizer = {
        "SGD": lambda: nn.SGD(parameters, rate),
        "Momentum": lambda: nn.Momentum(parameters, rate, settings["momentum"]),
        "Adam": lambda: nn.Adam(parameters, rate),
    }[settings["optimizer"]]()
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.CrossEntropyLoss()), optimizer)
    return step.set_train()


def samples_of(network):
    return texts() if network == "gpt" else samples()


@cache
def texts():
    """Windows of this file's text, int32 [N, 16], each with the byte that follows every one of them."""
    tokens = np.frombuffer(Path(__file__).read_bytes(), np.uint8).astype(np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, 17)[::4]
    return windows[:, :-1].copy(), windows[:, 1:].copy()


@cache
def samples():
    """Images float32 [4500, 1, 28, 28] and labels int32 [4500]: the embedded digits."""
    digits = Embedded().read()["train"]
    return normalise(digits.images), digits.labels.astype(np.int32)


def batches(settings):
    images, labels = samples()
    size, per_epoch = settings["batch_size"], len(labels) // settings["batch_size"]
    for number in range(settings["steps"]):
        epoch, index = divmod(number, per_epoch)
        order = np.random.default_rng([settings["seed"], epoch + 1]).permutation(len(labels))
        chosen = order[index * size : (index + 1) * size]
        yield Tensor(images[chosen]), Tensor(labels[chosen])


def losses(settings):
    step = train_step(settings)
    return [float(step(*batch).asnumpy()) for batch in batches(settings)]


def main():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    runs = json.loads(Path(sys.argv[1]).read_text())
    found = {}
    for run in runs:
        start = time.perf_counter()
        found[run["name"]] = losses(run)
        print(f"{run['name']}: {run['steps'] / (time.perf_counter() - start):.1f} steps a second", flush=True)
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
