"""Training on one rank within the test's own process: contexts, cells and steps of the tutorial's network."""

from pathlib import Path
from typing import Any

import mindspore
import numpy as np

from shardline.parallel.single_device import SingleDevice
from shardline.recipes.lookup import network_of
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.training.compatibility import decisive
from shardline.training.context import TrainingContext
from shardline.training.provenance import Provenance
from shardline.training.receipts import Receipts
from shardline.training.saving import Saver
from shardline.training.steps import train_step

SMALL = {"world_size": 1, "batch_size": 2, "keep_checkpoint_max": 2}


def new_context(folder: Path, seed: int = 1, **parameters: Any) -> TrainingContext:
    """A context in `folder` whose cell has the initial values of `seed`, whatever the run's own seed is."""
    config = RunConfig(**(SMALL | parameters))
    network, run = network_of(config), RunDirectory(folder)
    backend = SingleDevice(config, 0, network)
    backend.start()
    cell = train_step(network.cell(config.batch_size, backend, seed), config, backend, total_steps=100)
    strategy = folder / ".strategy" / "src_strategy.ckpt"
    backend.write_strategy(network, strategy)
    return TrainingContext(
        run=run,
        config=config,
        backend=backend,
        receipts=Receipts(run.checkpoints, patience_seconds=1),
        cell=cell,
        provenance=Provenance(strategy.read_bytes(), decisive(config, network.parameters(), "d" * 64)),
    )


def take_step(context: TrainingContext, seed: int = 0) -> float:
    """One step on random images; its loss."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((context.config.batch_size, 1, 28, 28)).astype(np.float32)
    labels = random.integers(0, 10, context.config.batch_size).astype(np.int32)
    loss, _, _ = context.cell(mindspore.Tensor(images), mindspore.Tensor(labels))
    return float(loss.asnumpy())


def save(context: TrainingContext, step: int) -> None:
    """Save a shard set of `step`."""
    Saver(context).save(step, epoch=1, step_in_epoch=step)


def values(context: TrainingContext) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in context.cell.get_parameters()}


def assert_same_values(context: TrainingContext, expected: dict[str, np.ndarray]) -> None:
    """The cell holds `expected`, to the bit."""
    found = values(context)
    assert set(found) == set(expected)
    for name, value in found.items():
        assert (value.shape, value.tobytes()) == (expected[name].shape, expected[name].tobytes()), name


def damage(file: Path) -> None:
    """Change the last byte of `file`."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
