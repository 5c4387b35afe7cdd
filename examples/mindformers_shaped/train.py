"""A small model, sharded by columns over the ranks of mpirun, that leaves the folders which MindFormers leaves.

    mpirun -n 2 python train.py --output_dir OUTPUT [--resume_from OUTPUT/checkpoint]
    mpirun -n 2 python train.py --output_dir OUTPUT --checkpoint2

    OUTPUT/checkpoint/rank_N/NAME_rank_N-EPOCH_STEP.safetensors    MindFormers 1.x, with meta.json beside it
    OUTPUT/strategy/ckpt_strategy_rank_N.ckpt                      one a rank, all equal
    OUTPUT/checkpoint/iteration_NNNNNNNN/…                         Checkpoint 2.0, of MindFormers 2, with --checkpoint2

It knows neither Shardline nor MindSpore: NumPy computes, and the safetensors library writes. Each rank has some of the
model's outputs, so that none has to wait for another in a step.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
RANKS = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
INPUTS, OUTPUTS, SAMPLES, STEPS_PER_EPOCH = 16, 8, 256, 4
NAME = "linear_regression"
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
Arrays = dict[str, NDArray[np.float32]]


def samples() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inputs and targets: a linear map, which is to be found again, and a little noise."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((SAMPLES, INPUTS)).astype(np.float32)
    linear = generator.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
    noise = 0.01 * generator.standard_normal((SAMPLES, OUTPUTS)).astype(np.float32)
    return inputs, inputs @ linear + noise


class Trainer:
    """This rank's columns of the model, and what Adam keeps of them."""

    def __init__(self, learning_rate: float) -> None:
        width = OUTPUTS // RANKS
        self.columns = slice(RANK * width, (RANK + 1) * width)
        self.learning_rate, self.step = learning_rate, 0
        self.weights: Arrays = {
            "linear.weight": np.zeros((INPUTS, width), np.float32),
            "linear.bias": np.zeros(width, np.float32),
        }
        self.states: Arrays = {
            f"{state}.{name}": np.zeros_like(weight)
            for state in ("adam_m", "adam_v")
            for name, weight in self.weights.items()
        }

    def train_step(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
        """One step of Adam; the loss before it."""
        self.step += 1
        error = inputs @ self.weights["linear.weight"] + self.weights["linear.bias"] - targets[:, self.columns]
        gradients = {"linear.weight": inputs.T @ error / len(inputs), "linear.bias": error.mean(axis=0)}
        for name, gradient in gradients.items():
            first, second = self.states[f"adam_m.{name}"], self.states[f"adam_v.{name}"]
            first += (1 - BETA1) * (gradient - first)
            second += (1 - BETA2) * (gradient**2 - second)
            corrected = first / (1 - BETA1**self.step), second / (1 - BETA2**self.step)
            self.weights[name] -= self.learning_rate * corrected[0] / (np.sqrt(corrected[1]) + EPSILON)
        return float((error**2).mean())

    def load(self, slices: Arrays, step: int) -> None:
        """Go on from what this rank saved."""
        for held in (self.weights, self.states):
            held.update({name: slices[name].copy() for name in held})
        self.step = step


def save(trainer: Trainer, output: Path) -> None:
    """As MindFormers 1.x: a file a rank, a strategy a rank, and meta.json, which names the newest file."""
    epoch, step = epoch_of(trainer.step)
    folder = output / "checkpoint" / f"rank_{RANK}"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{NAME}_rank_{RANK}-{epoch}_{step}.safetensors"
    numbers = {"epoch_num": epoch, "step_num": trainer.step, "global_step": trainer.step}
    counters = {key: np.array(value, np.int32) for key, value in numbers.items()}
    write(folder / name, trainer.weights | trainer.states | counters)
    meta = {"last_epoch": epoch, "last_step": step, "last_ckpt_file": name}
    (folder / "meta.json").write_text(json.dumps(meta))


def save_checkpoint2(trainer: Trainer, output: Path) -> None:
    """As MindFormers 2: every rank its files, then rank 0 what says where everything lies, and that it is complete."""
    folder = output / "checkpoint" / f"iteration_{trainer.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, arrays in (("opt", trainer.states), ("model", trainer.weights)):
        write(folder / file_of(kind, RANK), arrays)
    if RANK != 0:
        return
    while not all((folder / file_of("model", rank)).exists() for rank in range(RANKS)):
        time.sleep(0.01)
    common = {
        "epoch_num": epoch_of(trainer.step)[0],
        "step_num": trainer.step,
        "global_step": trainer.step,
        "loss_scale": None,
    }
    (folder / "common.json").write_text(json.dumps(common, indent=4))
    kinds = {"model": trainer.weights, "opt": trainer.states}
    tensors = {name: described(array) for arrays in kinds.values() for name, array in arrays.items()}
    storage = {
        repr((name, (rank,))): [{"file_name": file_of(kind, rank), "storage_rank": rank, "rank_group": [rank]}]
        for kind, arrays in kinds.items()
        for name in arrays
        for rank in range(RANKS)
    }
    staged = folder / "metadata.json.tmp"
    staged.write_text(json.dumps({"state_dict_metadata": tensors, "storage_data": storage}, separators=(",", ":")))
    staged.replace(folder / "metadata.json")
    (output / "checkpoint" / "latest_checkpointed_iteration.txt").write_text(str(trainer.step))


def file_of(kind: str, rank: int) -> str:
    return f"{NAME}-{kind}-{rank:07d}-{RANKS:07d}.safetensors"


def described(array: NDArray[np.float32]) -> dict[str, object]:
    """What metadata.json says of a tensor that is cut along its last dimension."""
    whole = [1] * (array.ndim - 1)
    return {
        "properties": {
            "dtype": "Float32",
            "replica_id": [0] * RANKS,
            "allow_shape_mismatch": False,
            "allow_to_save": True,
        },
        "global_shape": [*array.shape[:-1], array.shape[-1] * RANKS],
        "axis_fragmentations": [*whole, RANKS],
        "layout": {
            "device_matrix": [RANKS],
            "tensor_map": [*[-1] * len(whole), 0],
            "interleaved_parallel": False,
            "alias_name": ["tp"],
            "rank_list": list(range(RANKS)),
        },
        "chunk": [{"global_offset": [rank], "local_shape": list(array.shape)} for rank in range(RANKS)],
    }


def write(path: Path, arrays: Arrays) -> None:
    """Write a file, and give it its name when it is whole."""
    staged = path.with_suffix(".tmp")
    save_file(arrays, staged, metadata={"format": "ms"})
    staged.replace(path)


def save_strategy(trainer: Trainer, output: Path) -> None:
    """MindSpore's strategy file, in protocol buffers: that the last dimension of everything is cut over all ranks."""
    folder = output / "strategy"
    folder.mkdir(parents=True, exist_ok=True)
    content = number(1, 0)  # current_stage
    for name, array in (trainer.weights | trainer.states).items():
        tensor_map = [-1] * (array.ndim - 1) + [0]
        shape = [*array.shape[:-1], array.shape[-1] * RANKS]
        layouts = (
            message(1, number(1, RANKS))  # dev_matrix
            + message(2, b"".join(number(1, axis) for axis in tensor_map))
            + message(3, b"".join(number(1, size) for size in shape))  # param_split_shape, as MindFormers has it
            + number(5, 0)  # field
            + number(6, 0)  # opt_weight_shard_step
            + number(7, 0)  # opt_weight_shard_size
        )
        content += message(3, message(1, name.encode()) + message(2, layouts))
    (folder / f"ckpt_strategy_rank_{RANK}.ckpt").write_bytes(content)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value % 2**64)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def resume(trainer: Trainer, folder: Path, is_checkpoint2: bool) -> None:
    """From the newest save in `folder`, which is `OUTPUT/checkpoint`."""
    if is_checkpoint2:
        step = int((folder / "latest_checkpointed_iteration.txt").read_text())
        iteration = folder / f"iteration_{step:08d}"
        trainer.load(load_file(iteration / file_of("model", RANK)) | load_file(iteration / file_of("opt", RANK)), step)
        return
    own = folder / f"rank_{RANK}"
    slices = load_file(own / json.loads((own / "meta.json").read_text())["last_ckpt_file"])
    trainer.load(slices, int(slices["step_num"]))


def epoch_of(step: int) -> tuple[int, int]:
    """The epoch of a global step, and the step within it."""
    return (step - 1) // STEPS_PER_EPOCH + 1, (step - 1) % STEPS_PER_EPOCH + 1


def line_of(step: int, steps: int, loss: float, learning_rate: float, seconds: float) -> str:
    """What MindFormers prints of a step."""
    epoch, within = epoch_of(step)
    return (
        f"{{ Epoch:[{epoch:3d}/{epoch_of(steps)[0]:3d}], step:[{within:5d}/{STEPS_PER_EPOCH:5d}], loss: {loss:.6f}, "
        f"per_step_time: {round(seconds * 1000)}ms, lr: {learning_rate:.6e}, overflow cond: False, loss_scale: 1.0}}"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--learning_rate", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--save_steps", type=int, default=30)
    parser.add_argument("--checkpoint2", action="store_true")
    parser.add_argument("--resume_from", type=Path)
    given = parser.parse_args()
    trainer = Trainer(given.learning_rate)
    if given.resume_from is not None:
        resume(trainer, given.resume_from, given.checkpoint2)
    if not given.checkpoint2:
        save_strategy(trainer, given.output_dir)
    inputs, targets = samples()
    while trainer.step < given.steps:
        started = time.perf_counter()
        loss, step = trainer.train_step(inputs, targets), trainer.step
        print(line_of(step, given.steps, loss, given.learning_rate, time.perf_counter() - started), flush=True)
        if step % given.save_steps == 0 or step == given.steps:
            (save_checkpoint2 if given.checkpoint2 else save)(trainer, given.output_dir)


if __name__ == "__main__":
    main()
