"""A plain MindSpore program, sharded by hand over the ranks of mpirun: each rank cuts and saves its own slices.

    mpirun -n 2 python train.py --output DIR [--resume_slice DIR/checkpoint/rank_N/plain-EPOCH_STEP.ckpt]

    DIR/checkpoint/rank_N/plain-EPOCH_STEP.ckpt     by MindSpore's save_checkpoint
    DIR/strategy.ckpt                               how the parameters are cut, by MindSpore's own strategy messages

A perceptron as Megatron cuts one: the first layer by columns, the second by rows, and MPI adds the ranks' parts of the
output, and those of nothing else: all that follows is the same on every rank. It knows nothing of Shardline.
"""

import argparse
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train.node_strategy_pb2 import ParallelStrategyMap
from mpi4py import MPI
from numpy.typing import NDArray

RANK, RANKS = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
INPUTS, HIDDEN, CLASSES, SAMPLES, BATCH = 16, 32, 4, 512, 64
STEPS_PER_EPOCH = SAMPLES // BATCH
LAYOUTS = {"first.weight": [-1, 0], "first.bias": [0], "second.weight": [0, -1], "second.bias": [-1]}
"""For each dimension the axis of the device matrix [ranks] that it is cut along, or -1."""


def samples() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points around one centre a class."""
    generator = np.random.default_rng(0)
    centres = 2 * generator.standard_normal((CLASSES, INPUTS))
    labels = generator.integers(0, CLASSES, SAMPLES).astype(np.int32)
    return (centres[labels] + generator.standard_normal((SAMPLES, INPUTS))).astype(np.float32), labels


def initial(name: str, shape: tuple[int, ...]) -> Parameter:
    """This rank's slice of a parameter, whose whole is the same on all ranks."""
    generator = np.random.default_rng(len(name))
    whole = (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
    if name.endswith("bias"):
        whole[:] = 0
    for dimension, axis in enumerate(LAYOUTS[name]):
        if axis == 0:
            whole = np.split(whole, RANKS, dimension)[RANK]
    return Parameter(Tensor(np.ascontiguousarray(whole)), name=name)


class Perceptron(nn.Cell):
    """This rank's part of the network: of the output, what its hidden units contribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first = initial("first.weight", (INPUTS, HIDDEN))
        self.first_bias = initial("first.bias", (HIDDEN,))
        self.second = initial("second.weight", (HIDDEN, CLASSES))
        self.second_bias = initial("second.bias", (CLASSES,))

    def construct(self, inputs: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        """The loss, where the other ranks' parts of the output are `others`."""
        logits = self.part(inputs) + others + self.second_bias
        return ops.cross_entropy(logits, labels)

    def part(self, inputs: Tensor) -> Tensor:
        """What this rank's hidden units add to the output."""
        return ops.matmul(ops.relu(ops.matmul(inputs, self.first) + self.first_bias), self.second)


def others_parts(network: Perceptron, inputs: Tensor) -> Tensor:
    """The sum of what the other ranks' hidden units add to the output."""
    own = network.part(inputs).asnumpy()
    total = np.empty_like(own)
    MPI.COMM_WORLD.Allreduce(own, total)
    return Tensor(total - own)


def save(network: Perceptron, optimizer: nn.Optimizer, step: int, output: Path) -> None:
    """This rank's slices, and the optimizer's."""
    epoch, within = (step - 1) // STEPS_PER_EPOCH + 1, (step - 1) % STEPS_PER_EPOCH + 1
    folder = output / "checkpoint" / f"rank_{RANK}"
    folder.mkdir(parents=True, exist_ok=True)
    held = [{"name": each.name, "data": each} for each in (*network.trainable_params(), *optimizer.moments)]
    counter = {"name": "step_num", "data": Tensor(step, mindspore.int32)}
    mindspore.save_checkpoint([*held, counter], str(folder / f"plain-{epoch}_{within}.ckpt"))


def resume(network: Perceptron, optimizer: nn.Optimizer, file: Path) -> int:
    """Give all parameters and states the values in `file`; the step that it was saved at."""
    saved = mindspore.load_checkpoint(str(file))
    for parameter in (*network.trainable_params(), *optimizer.moments):
        parameter.set_data(saved[parameter.name])
    return int(saved["step_num"].asnumpy())


def save_strategy(network: Perceptron, optimizer: nn.Optimizer, path: Path) -> None:
    """MindSpore's strategy file. A momentum is cut as its parameter."""
    strategy = ParallelStrategyMap()
    strategy.current_stage = 0
    for parameter in (*network.trainable_params(), *optimizer.moments):
        item = strategy.parallel_layout_item.add()
        item.param_name = parameter.name
        layouts = item.parallel_layouts
        layouts.dev_matrix.add().dim.append(RANKS)
        layouts.tensor_map.add().dim.extend(LAYOUTS[parameter.name.removeprefix("moments.")])
        layouts.field = layouts.opt_weight_shard_step = layouts.opt_weight_shard_size = 0
    staged = path.with_suffix(".tmp")
    staged.write_bytes(strategy.SerializeToString())
    staged.replace(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--learning_rate", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--resume_slice", type=Path)
    given = parser.parse_args()
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    mindspore.set_device("CPU")
    network = Perceptron()
    optimizer = nn.Momentum(network.trainable_params(), given.learning_rate, 0.9)
    if RANK == 0:
        given.output.mkdir(parents=True, exist_ok=True)
        save_strategy(network, optimizer, given.output / "strategy.ckpt")
    step = resume(network, optimizer, given.resume_slice) if given.resume_slice else 0
    gradients_of = mindspore.value_and_grad(network, None, network.trainable_params())
    inputs, labels = samples()
    while step < given.epochs * STEPS_PER_EPOCH:
        batch = slice(step % STEPS_PER_EPOCH * BATCH, (step % STEPS_PER_EPOCH + 1) * BATCH)
        points = Tensor(inputs[batch])
        loss, gradients = gradients_of(points, others_parts(network, points), Tensor(labels[batch]))
        optimizer(gradients)
        step += 1
        epoch = (step - 1) // STEPS_PER_EPOCH + 1
        print(f"epoch: {epoch} step: {step}, loss is {float(loss.asnumpy()):.6f}", flush=True)
        if step % STEPS_PER_EPOCH == 0:
            save(network, optimizer, step, given.output)


if __name__ == "__main__":
    main()
