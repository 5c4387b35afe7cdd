"""One rank's training run, from joining the others to the result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mindspore import Tensor

from shardline.base import atomic
from shardline.base.errors import Stopped
from shardline.base.termination import StopRequest
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.networks.train_spec import TrainSpec
from shardline.parallel.single_device import SingleDevice
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.settings.run_config import RunConfig
from shardline.training.batches import Batches, as_taken
from shardline.training.context import TrainingContext
from shardline.training.health import Health
from shardline.training.held_out import HeldOut
from shardline.training.loop import Loop
from shardline.training.metrics_file import Metrics
from shardline.training.phases import Phases
from shardline.training.provenance import provenance_of
from shardline.training.receipts import Receipts
from shardline.training.reference import SAMPLES, logits_of, save_reference
from shardline.training.saving import Saver
from shardline.training.starting import start
from shardline.training.status import Status
from shardline.training.steps import train_step
from shardline.training.stopping import Stopping

if TYPE_CHECKING:
    from shardline.training.event_files import EventFiles


def run_rank(
    run: RunDirectory, config: RunConfig, spec: TrainSpec, backend: SingleDevice, phases: Phases
) -> Mapping[str, Any] | None:
    """Train as `config` says, on from the newest shard set if there is one; rank 0 returns the result.

    Raises `Stopped` where SIGTERM came and a shard set was saved, when no rank needs another any more.
    """
    with phases.measure("cluster"):
        backend.start()
    with phases.measure("build"):
        batches = Batches(*spec.dataset.load(run.dataset_file, "train"), config.batch_size, config.seed)
        cell = spec.network.cell(config.micro_batch_size, backend, config.seed)
        step_cell = train_step(cell, config, backend, config.epochs * batches.steps_per_epoch)
    with phases.measure("compile"):
        backend.compile(step_cell, *(Tensor(array) for array in batches.at(0)))
    context = TrainingContext(
        run=run,
        config=config,
        backend=backend,
        cell=step_cell,
        receipts=Receipts(run.checkpoints),
        provenance=provenance_of(run, config, spec.network, backend),
    )
    with phases.measure("start_barrier"):
        if backend.rank == 0:
            context.receipts.clear()
        backend.barrier()
    begin, loss = _train(context, batches, phases, _held_out(run, config, spec, cell))
    with phases.measure("reference"), backend.uncompiled():
        samples, labels = (as_taken(part[:SAMPLES]) for part in spec.dataset.load(run.dataset_file, "test"))
        logits = logits_of(cell, samples, config.micro_batch_size)
    with phases.measure("end_barrier"):
        context.receipts.leave_together(backend.rank, backend.world_size)
    if backend.rank == backend.output_rank:
        save_reference(run.reference_logits_file, samples, labels, logits)
    if backend.rank > 0:
        return None
    _record(context, phases, begin)
    return _result(run, config, loss)


def _held_out(run: RunDirectory, config: RunConfig, spec: TrainSpec, cell: Any) -> HeldOut | None:
    """What the loss is watched on, where that was asked for."""
    if config.validate_every_steps is None:
        return None
    samples, labels = map(as_taken, spec.dataset.load(run.dataset_file, "test"))
    return HeldOut(
        network=cell,
        samples=samples,
        labels=labels,
        batch_size=config.micro_batch_size,
        every=config.validate_every_steps,
    )


def _train(
    context: TrainingContext, batches: Batches, phases: Phases, held_out: HeldOut | None
) -> tuple[int, float | None]:
    """Take all steps that are left; the step that training went on from, and the last one's loss."""
    run, config, backend = context.run, context.config, context.backend
    last = config.epochs * batches.steps_per_epoch
    with phases.measure("resume"):
        begin = start(context, home_from(os.environ), last)
        saver = Saver(context)
        saver.discard_incomplete()
        backend.barrier()  # nobody looks for what is incomplete while another saves
    metrics_file = run.metrics_file if backend.rank == 0 else None
    events = _event_files(run, begin.step) if backend.rank == 0 else None
    with StopRequest() as request, Metrics(metrics_file, begin.step, begin.run.metrics_file, events) as metrics:
        loop = Loop(
            cell=context.cell,
            batches=batches,
            saver=saver,
            metrics=metrics,
            health=Health(backend.held(context.cell.get_parameters()), backend.rank, config.loss_spike_factor),
            status=Status(
                run.rank_status(backend.rank),
                backend.rank,
                range(begin.step, last),
                lambda: backend.collectives_seconds,
            ),
            stopping=Stopping(backend, request, begin.step),
            phases=phases,
            held_out=held_out,
        )
        try:
            loop.run(begin.step, last, config.save_checkpoint_steps)
        except Stopped:
            context.receipts.leave_together(backend.rank, backend.world_size)
            raise
    return begin.step, metrics.loss


def _event_files(run: RunDirectory, step: int) -> EventFiles:
    from shardline.training.event_files import EventFiles  # one rank needs it; the others start without

    return EventFiles(run.event_files, step)


def _record(context: TrainingContext, phases: Phases, begin: int) -> None:
    """Leave where the time went."""
    record = {
        "phases": phases.seconds,
        "resumed_from": begin,
        "steps": ShardSet.steps(context.run.checkpoints)[-1] - begin,
        "world_size": context.config.world_size,
    }
    atomic.write_text(context.run.train_file, json.dumps(record, indent=1) + "\n")


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
