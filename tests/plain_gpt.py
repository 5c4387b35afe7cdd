"""A GPT as anyone would write it with MindSpore, trained in one process by AdamW as NumPy: nothing of `shardline`.

    python -m tests.plain_gpt SETTINGS.json OUTPUT.npz

The yardstick of the sharded transformer. It shares with the project the samples, their order and the initial values.
SETTINGS is steps, and the parameters of a `RunConfig`. OUTPUT has `outcomes`, a row a step, and the trained weights.
"""

import json
import sys
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from shardline.networks.initial import normal_slice
from tests.plain_training import texts

VOCABULARY = 256
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def normal(name, shape, deviation, seed):
    whole = tuple(slice(0, size) for size in shape)
    return Parameter(Tensor(normal_slice(name, shape, whole, deviation=deviation, seed=seed)), name=name)


class Dense(nn.Cell):
    def __init__(self, name, inputs, outputs, seed, *, deviation=0.02, bias=True):
        super().__init__(auto_prefix=False)
        self.weight = normal(f"{name}.weight", (inputs, outputs), deviation, seed)
        self.bias = Parameter(Tensor(np.zeros(outputs, np.float32)), name=f"{name}.bias") if bias else 0.0

    def construct(self, x):
        return ops.matmul(x, self.weight) + self.bias


class Norm(nn.Cell):
    def __init__(self, name, hidden):
        super().__init__(auto_prefix=False)
        self.gamma = Parameter(Tensor(np.ones(hidden, np.float32)), name=f"{name}.gamma")
        self.beta = Parameter(Tensor(np.zeros(hidden, np.float32)), name=f"{name}.beta")

    def construct(self, x):
        mean = x.mean(-1, keep_dims=True)
        variance = ops.square(x - mean).mean(-1, keep_dims=True)
        return (x - mean) / ops.sqrt(variance + 1e-5) * self.gamma + self.beta


class Block(nn.Cell):
    def __init__(self, name, *, hidden, heads, positions, layers, seed):
        super().__init__(auto_prefix=False)
        self.heads, self.size = heads, hidden // heads
        self.norm1, self.norm2 = Norm(f"{name}.norm1", hidden), Norm(f"{name}.norm2", hidden)
        self.query, self.key, self.value = (
            Dense(f"{name}.attention.{part}", hidden, hidden, seed) for part in ("query", "key", "value")
        )
        last = 0.02 / np.sqrt(2 * layers)
        self.output = Dense(f"{name}.attention.output", hidden, hidden, seed, deviation=last)
        self.up = Dense(f"{name}.up", hidden, 4 * hidden, seed)
        self.down = Dense(f"{name}.down", 4 * hidden, hidden, seed, deviation=last)
        self.hidden_from = Tensor(np.triu(np.full((positions, positions), -1e9, np.float32), 1))

    def split(self, x):
        batch, positions, _ = x.shape
        return x.reshape(batch, positions, self.heads, self.size).transpose(0, 2, 1, 3)

    def construct(self, x):
        y = self.norm1(x)
        query, key, value = self.split(self.query(y)), self.split(self.key(y)), self.split(self.value(y))
        scores = ops.matmul(query, key.transpose(0, 1, 3, 2)) / self.size**0.5 + self.hidden_from
        mixed = ops.matmul(ops.softmax(scores, -1), value).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + self.output(mixed)
        return x + self.down(ops.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Cell):
    def __init__(self, layers, hidden, heads, positions, seed):
        super().__init__(auto_prefix=False)
        self.tokens = normal("embedding.tokens", (VOCABULARY, hidden), 0.02, seed)
        self.positions = normal("embedding.positions", (positions, hidden), 0.02, seed)
        blocks = [
            Block(f"block{n}", hidden=hidden, heads=heads, positions=positions, layers=layers, seed=seed)
            for n in range(1, layers + 1)
        ]
        self.blocks = nn.CellList(blocks, auto_prefix=False)
        self.norm = Norm("norm", hidden)
        self.head = Dense("head", hidden, VOCABULARY, seed, bias=False)

    def construct(self, ids):
        x = self.tokens[ids] + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def rate_of(run, step):
    warmup, total = run["warmup_steps"], run["steps"]
    if step < warmup:
        return run["learning_rate"] * (step + 1) / warmup
    if run["schedule"] == "constant":
        return run["learning_rate"]
    return run["learning_rate"] * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup)))


def train(run):
    """For each step: loss, learning rate, and the norm of the gradients before clipping; and the trained weights."""
    network = Gpt(run["layers"], run["hidden_size"], run["heads"], run["sequence_length"], run["seed"])
    parameters = network.trainable_params()

    def loss_of(samples, labels):
        return ops.cross_entropy(network(samples).reshape(-1, VOCABULARY), labels.reshape(-1))

    gradients_of = mindspore.value_and_grad(loss_of, None, parameters)
    first = {p.name: np.zeros(p.shape) for p in parameters}
    second = {p.name: np.zeros(p.shape) for p in parameters}
    samples, labels = texts()
    order = np.random.default_rng([run["seed"], 1]).permutation(len(labels))
    outcomes = []
    for step in range(run["steps"]):
        chosen = order[step * run["batch_size"] : (step + 1) * run["batch_size"]]
        loss, gradients = gradients_of(Tensor(samples[chosen]), Tensor(labels[chosen]))
        gradients = [gradient.asnumpy().astype(np.float64) for gradient in gradients]
        norm, rate = np.sqrt(sum((g**2).sum() for g in gradients)), rate_of(run, step)
        outcomes.append([float(loss.asnumpy()), rate, norm])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            name, value = parameter.name, parameter.asnumpy().astype(np.float64)
            clipped = gradient * min(1, (run["clip_norm"] or np.inf) / norm)
            first[name] = BETA1 * first[name] + (1 - BETA1) * clipped
            second[name] = BETA2 * second[name] + (1 - BETA2) * clipped**2
            if value.ndim > 1:
                value -= rate * run["weight_decay"] * value
            # MindSpore's Adam adds epsilon before the second moment's correction, as the paper's section 2 proposes
            corrected = rate * np.sqrt(1 - BETA2 ** (step + 1)) / (1 - BETA1 ** (step + 1))
            value -= corrected * first[name] / (np.sqrt(second[name]) + EPSILON)
            parameter.set_data(Tensor(value.astype(np.float32)))
    return np.array(outcomes), {parameter.name: parameter.asnumpy() for parameter in parameters}


def main():
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    mindspore.set_device("CPU")
    outcomes, weights = train(json.loads(Path(sys.argv[1]).read_text()))
    np.savez(sys.argv[2], outcomes=outcomes, **weights)


if __name__ == "__main__":
    main()
