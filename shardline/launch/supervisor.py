"""One launch, from the first check to the last process.

The supervisor holds the run directory's lock, ends what an earlier try left, checks what can be checked, waits for its
cards (`shardline.launch.card_leases`), starts mpirun in a session of its own, follows rank 0's log, and at the end
leaves no process behind, in each of these cases:

| what ends                | who notices                         | what then                                      |
|--------------------------|-------------------------------------|------------------------------------------------|
| all ranks, well          | `finished.json` of every rank       | rank 0's result is returned                    |
| a rank, badly            | its witness, mpirun                 | the others get a few seconds, then SIGKILL     |
| progress of any rank     | `hang_timeout`                      | a dump of all stacks, SIGTERM, SIGKILL         |
| mpirun                   | the kernel (ranks get SIGKILL)      | `LaunchError`                                  |
| the supervisor           | the kernel (mpirun gets SIGTERM)    | mpirun ends its ranks; the next try reaps      |
| the supervisor's parent  | the kernel                          | as for SIGTERM                                 |
| SIGTERM, SIGINT, SIGHUP  | the supervisor                      | SIGTERM to the ranks, which save a shard set   |
|                          |                                     | and leave; after `termination_grace`, SIGKILL  |
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from shardline.base import atomic
from shardline.base.counts import counted
from shardline.launch import logs, preflight, visible_cards
from shardline.launch.card_leases import CardLedger, Lease, cards_of
from shardline.launch.interruption import Interruption
from shardline.launch.job import Job
from shardline.launch.mpirun import remove_abandoned_sessions, session_folder, without_outer_run
from shardline.launch.patience import PATIENT, Patience
from shardline.launch.processes import LaunchProcesses
from shardline.launch.program_work import ProgramWork
from shardline.launch.sites import ThisHost, say
from shardline.launch.work import ModuleWork
from shardline.run.code import record_code
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.settings.training_config import TrainingConfig


def launch(
    module: str, directory: RunDirectory, environment: Mapping[str, str], patience: Patience = PATIENT
) -> dict[str, Any]:
    """Run `module` on its ranks to the end; return the JSON object that rank 0 printed last.

    Where `module` trains, and the run's training is described by a file, its program runs instead: what it saved is
    returned. Raises `ConfigError`, `RunDirectoryError` (the run directory is in use), `Stopped` (all ranks were told
    to, and have saved), `LaunchError`, or what a rank raised; no process of the launch is left in any case.
    """
    work = work_of(module, directory)
    with directory.lock() as lock, Interruption() as interruption:
        _end_leftovers(directory, patience)
        work.check()
        site = work.site(environment, patience)
        asked = _note_cards(module, directory)
        with _cards(site, directory, interruption) as lease, session_folder(directory.path) as session:
            _note_cards(module, directory, asked, lease)
            site.check(work.memory_a_rank, interruption)
            job = _prepare(work, directory, site, lease, session)
            if module == preflight.TRAINING:
                record_code(directory, home_from(environment), work.config)  # a retry may have other code
            with work.meanwhile(), _told_meanwhile(module, directory, environment):
                outcome = job.run(interruption, lock)
            if outcome.launch.unfinished():
                site.end_processes()
            return work.result(outcome, interruption)


def _told_meanwhile(
    module: str, directory: RunDirectory, environment: Mapping[str, str]
) -> AbstractContextManager[None]:
    """MLflow is told of a training while it runs, where that is asked for."""
    if module != preflight.TRAINING or not environment.get("SHARDLINE_MLFLOW_URI"):
        return nullcontext()
    from shardline.run.tracking import tracked_meanwhile

    return tracked_meanwhile(directory, environment, home_from(environment))


def work_of(module: str, directory: RunDirectory) -> ModuleWork:
    """What the ranks do: `module`, or the program of a run whose training is described by a file."""
    config = directory.read_any_config()
    if module == preflight.TRAINING and isinstance(config, TrainingConfig):
        return ProgramWork(module, config, directory)
    return ModuleWork(module, config, directory)


def _cards(site: ThisHost, directory: RunDirectory, interruption: Interruption) -> AbstractContextManager[Lease]:
    """Hold as many of this host's cards as there are ranks here."""
    if not site.ranks_here:
        return nullcontext(Lease((), ()))
    home = home_from(site.environment)
    ledger = CardLedger.of_this_host(home, site.config.device_target, cards_of(site.environment), site.patience)
    return ledger.lease(site.ranks_here, directory.path.name, say, lambda: bool(interruption.reason))


def _note_cards(module: str, directory: RunDirectory, asked: float | None = None, lease: Lease | None = None) -> float:
    """Leave in the run when its training asked for cards, and, once it has them, since when it holds which."""
    now = time.time()
    if module == preflight.TRAINING:
        held = {} if lease is None else {"held": now, "cards": list(lease.cards)}
        atomic.write_text(directory.cards_file, json.dumps({"asked": asked or now, **held}) + "\n")
    return now


def _end_leftovers(directory: RunDirectory, patience: Patience) -> None:
    """End what an earlier try may have left running: it would hold its cards."""
    if left := LaunchProcesses(directory.path, patience).end(patience.leave_at_once_s):
        ended = counted(len(left), "process", "processes")
        say(f"ended {ended} that an earlier try of {directory.path} had left running")
    remove_abandoned_sessions(directory.path)


def _prepare(work: ModuleWork, directory: RunDirectory, site: ThisHost, lease: Lease, variables: dict[str, str]) -> Job:
    """Set the logs of an earlier try aside, and put the command together; mpirun gets `variables`, too."""
    processes = LaunchProcesses(directory.path, site.patience)
    folder = work.logs
    if earlier := logs.set_aside(folder):
        say(f"the logs of the try before are in {earlier}")
    folder.mkdir(parents=True)
    work.prepare()
    environment = (
        without_outer_run(site.environment)
        | processes.environment
        | lease.environment
        | visible_cards.selection(site.config.device_target, lease.cards, site.ranks_here, site.environment)
        | variables
    )
    return Job(
        site.command(work.rank_command(), folder, environment),
        environment,
        work.processes,
        folder,
        processes,
        directory.metrics_file,
        work.config.hang_timeout,
        work.config.termination_grace,
        site.patience,
        lease.descriptors,
        work.begins,
        work.shown,
    )
