"""A run directory as merge leaves it, with a model good enough to validate, made without training.

The network of the tutorial gets random features in its first layer, passes them on in the second, and reads the classes
from them by least squares in the third. What it computes is computed here again by NumPy, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shardline.base.digest import file_digest
from shardline.checkpoint.merging.record_file import RECORD_FORMAT
from shardline.datasets import digits
from shardline.datasets.description import LABELLED_IMAGES
from shardline.datasets.embedded import Embedded
from shardline.datasets.preparation import prepare
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig

Weights = dict[str, np.ndarray]


def write_dataset(folder: Path) -> Path:
    """A `dataset.json` of the embedded digits, prepared under `folder`."""
    file = folder / "dataset.json"
    file.write_text(prepare("embedded", Embedded(), LABELLED_IMAGES, folder / "prepared").to_json())
    return file


def least_squares_weights(dataset_file: Path) -> Weights:
    """Parameters of the network `mlp` that know most of the digits."""
    images, labels = digits.load(dataset_file, "train")
    generator = np.random.default_rng(5)
    weights = {
        "layer1.weight": generator.normal(0, 1 / 28, (784, 512)),
        "layer1.bias": generator.normal(0, 0.1, 512),
        "layer2.weight": np.eye(512),
        "layer2.bias": np.zeros(512),
    }
    features = np.maximum(images.reshape(len(images), -1) @ weights["layer1.weight"] + weights["layer1.bias"], 0)
    squared = features.T @ features + 10 * np.eye(512)
    weights["layer3.weight"] = 5 * np.linalg.solve(squared, features.T @ (np.eye(10)[labels] - 0.1))
    weights["layer3.bias"] = np.zeros(10)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def logits_of(weights: Weights, images: np.ndarray) -> np.ndarray:
    """What the network computes, float32, by NumPy in float64."""
    x = images.reshape(len(images), -1).astype(np.float64)
    x = np.maximum(x @ weights["layer1.weight"] + weights["layer1.bias"], 0)
    x = np.maximum(x @ weights["layer2.weight"] + weights["layer2.bias"], 0)
    return (x @ weights["layer3.weight"] + weights["layer3.bias"]).astype(np.float32)


def save_merged(run: RunDirectory, weights: Weights, merged_format: Literal["ckpt", "safetensors"]) -> None:
    """Write the merged file by MindSpore's own `save_checkpoint`, with optimizer states, and its `merge.json`."""
    from mindspore import Tensor, save_checkpoint

    state = {f"moment1.{name}": np.zeros_like(value) for name, value in weights.items()}
    run.merged.mkdir(exist_ok=True)
    file = run.merged / f"model.{merged_format}"
    items = [{"name": name, "data": Tensor(value)} for name, value in (weights | state).items()]
    save_checkpoint(items, str(file), format=merged_format)
    file.chmod(0o644)
    write_proof(run, file)


def write_proof(run: RunDirectory, file: Path, step: int = 700) -> None:
    """A `merge.json` for the merged `file`."""
    record = {
        "format": RECORD_FORMAT,
        "output": [{"name": file.name, "size": file.stat().st_size, "digest": file_digest(file)}],
        "inputs": {"step": str(step), "manifest": True},
        "options": {},
        "tensors": [],
    }
    run.merge_file.write_text(json.dumps(record))


def make_run(path: Path, dataset_file: Path, weights: Weights, **parameters: Any) -> RunDirectory:
    """A run directory that is ready to be validated."""
    path.mkdir()
    run = RunDirectory(path)
    config = RunConfig(**parameters)
    run.write_config(config)
    run.dataset_file.write_bytes(dataset_file.read_bytes())
    save_merged(run, weights, config.merged_format)
    images, labels = digits.load(dataset_file, "test")
    np.savez(run.reference_logits_file, samples=images[:32], labels=labels[:32], logits=logits_of(weights, images[:32]))
    losses = [{"step": step, "epoch": 1, "loss": 2.3 / step} for step in range(1, 50)]
    records = [*losses, {"epoch": 1, "samples_per_second": 1000.0}]
    run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run
