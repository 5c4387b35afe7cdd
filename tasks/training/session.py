"""One rank's training run, from joining the others to the result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mindspore import Tensor

from tasks import atomic, command_line
from tasks.checkpoint.shard_set import ShardSet
from tasks.config import RunConfig
from tasks.errors import Stopped
from tasks.networks.cells import build
from tasks.networks.train_spec import TrainSpec
from tasks.parallel.backend import SingleDevice
from tasks.run_directory import RunDirectory
from tasks.termination import StopRequest
from tasks.training.batches import Batches, as_taken
from tasks.training.context import TrainingContext
from tasks.training.health import Health
from tasks.training.loop import Loop
from tasks.training.metrics import Metrics
from tasks.training.phases import Phases
from tasks.training.provenance import provenance_of
from tasks.training.receipts import Receipts
from tasks.training.reference import SAMPLES, logits_of, save_reference
from tasks.training.saving import Saver
from tasks.training.starting import start
from tasks.training.status import Status
from tasks.training.steps import train_step
from tasks.training.stopping import Stopping

if TYPE_CHECKING:
    from tasks.training.event_files import EventFiles


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
        cell = build(spec.network, config.micro_batch_size, backend, config.seed)
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
    begin, loss = _train(context, batches, phases)
    with phases.measure("reference"):
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


def _train(context: TrainingContext, batches: Batches, phases: Phases) -> tuple[int, float | None]:
    """Take all steps that are left; the step that training went on from, and the last one's loss."""
    run, config, backend = context.run, context.config, context.backend
    last = config.epochs * batches.steps_per_epoch
    with phases.measure("resume"):
        begin = start(context, command_line.home_from(os.environ), last)
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
            status=Status(run.rank_status(backend.rank), backend.rank, begin.step, lambda: backend.collectives_seconds),
            stopping=Stopping(backend, request, begin.step),
            phases=phases,
        )
        try:
            loop.run(begin.step, last, config.save_checkpoint_steps)
        except Stopped:
            context.receipts.leave_together(backend.rank, backend.world_size)
            raise
    return begin.step, metrics.loss


def _event_files(run: RunDirectory, step: int) -> EventFiles:
    from tasks.training.event_files import EventFiles  # one rank needs it; the others start without

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
