"""One rank's training run, from joining the others to the result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from blake3 import blake3
from mindspore import Tensor

from tasks import atomic, command_line, model_store
from tasks.checkpoint.shard_set import ShardSet, file_digest
from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.networks.cells import build
from tasks.networks.train_spec import Network, TrainSpec
from tasks.parallel.backend import SingleDevice
from tasks.run_directory import RunDirectory
from tasks.training.batches import Batches, as_taken
from tasks.training.loop import Loop
from tasks.training.metrics import Metrics
from tasks.training.phases import Phases
from tasks.training.receipts import Receipts
from tasks.training.reference import SAMPLES, logits_of, save_reference
from tasks.training.resuming import resume, warm_start
from tasks.training.saving import Identity, Saver
from tasks.training.steps import train_step

_EQUAL_TO_RESUME = (
    "network",
    "device_target",
    "batch_size",
    "optimizer",
    "learning_rate",
    "momentum",
    "seed",
    "start_from",
)


def run_rank(
    run: RunDirectory, config: RunConfig, spec: TrainSpec, backend: SingleDevice, phases: Phases
) -> Mapping[str, Any] | None:
    """Train as `config` says, on from the newest shard set if there is one; rank 0 returns the result."""
    with phases.measure("cluster"):
        backend.start()
    with phases.measure("build"):
        batches = Batches(*spec.dataset.load(run.dataset_file, "train"), config.batch_size, config.seed)
        cell = build(spec.network, config.batch_size, backend, config.seed)
        step_cell = train_step(cell, config)
    with phases.measure("compile"):
        backend.compile(step_cell, *(Tensor(array) for array in batches.at(0)))
    with phases.measure("start_barrier"):
        backend.barrier()
    with phases.measure("resume"):
        saver, first = _start(run, config, spec.network, backend, step_cell)
    last = config.epochs * batches.steps_per_epoch
    with Metrics(run.metrics_file if backend.rank == 0 else None, first) as metrics:
        Loop(step_cell, batches, metrics, saver, phases).run(first, last, config.save_checkpoint_steps)
    with phases.measure("reference"):
        samples, labels = (as_taken(part[:SAMPLES]) for part in spec.dataset.load(run.dataset_file, "test"))
        logits = logits_of(cell, samples, config.batch_size)
    with phases.measure("end_barrier"):
        Receipts(run.checkpoints).leave_together(backend.rank, backend.world_size)
    if backend.rank > 0:
        return None
    save_reference(run.reference_logits_file, samples, labels, logits)
    record = {"phases": phases.seconds, "resumed_from": first, "steps": last - first, "world_size": config.world_size}
    atomic.write_text(run.train_file, json.dumps(record, indent=1) + "\n")
    return _result(run, config, metrics.loss)


def _start(
    run: RunDirectory, config: RunConfig, network: Network, backend: SingleDevice, step_cell: Any
) -> tuple[Saver, int]:
    """What saves, and the step that training starts from, whose weights and states `step_cell` then has."""
    strategy_file = run.path / ".strategy" / f"rank_{backend.rank}" / config.strategy_save_file
    backend.write_strategy(network, strategy_file)
    identity = Identity(file_digest(strategy_file), _configuration_digest(run, config))
    saver = Saver(run.checkpoints, config, backend, step_cell, identity)
    first = resume(run.checkpoints, step_cell, backend, identity)
    if first:
        print(f"resumed from shard set {first}", flush=True)
    elif config.start_from == "current":
        _start_from_current(config, step_cell, backend)
    saver.discard_incomplete()
    if backend.rank == 0:
        atomic.write_bytes(run.strategy_file(config), strategy_file.read_bytes())
    backend.barrier()  # nobody's receipts are left over when rank 0 first counts them
    return saver, first


def _configuration_digest(run: RunDirectory, config: RunConfig) -> str:
    """A digest of whatever decides the weights of a step, besides the strategy."""
    parts = config.model_dump(mode="json", include=set(_EQUAL_TO_RESUME)) | {"dataset": run.dataset_digest()}
    return blake3(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _result(run: RunDirectory, config: RunConfig, loss: float | None) -> Mapping[str, Any]:
    newest = ShardSet.read(ShardSet.path(run.checkpoints, ShardSet.steps(run.checkpoints)[-1]))
    return {
        "run_directory": str(run.path),
        "step": newest.step,
        "epoch": newest.epoch,
        "shard_set": str(ShardSet.path(run.checkpoints, newest.step)),
        "strategy_file": str(run.strategy_file(config)),
        "strategy_digest": newest.strategy_digest,
        "loss": loss,
    }


def _start_from_current(config: RunConfig, step_cell: Any, backend: SingleDevice) -> None:
    """Load the weights of the model store's current version; optimizer states start anew."""
    version = model_store.current(command_line.home_from(os.environ), config.model_name)
    if version is None:
        raise ConfigError(
            f"start_from is 'current', but the model store has no version of {config.model_name} yet; "
            "train from 'scratch' first, or correct model_name"
        )
    warm_start(version.model_file, step_cell.network, backend)
    print(f"started from version {version.version} of {config.model_name}", flush=True)
