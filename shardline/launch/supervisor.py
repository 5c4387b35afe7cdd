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

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from shardline.base.errors import LaunchError, Stopped
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch import diagnosis, logs, preflight, visible_cards
from shardline.launch.card_leases import CardLedger, Lease, cards_of
from shardline.launch.interruption import Interruption
from shardline.launch.job import Job, Outcome
from shardline.launch.mpirun import remove_abandoned_sessions, session_folder, without_outer_run
from shardline.launch.patience import PATIENT, Patience
from shardline.launch.processes import LaunchProcesses
from shardline.launch.sites import ThisHost, say, site_of
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from

# Tasks of one process on one device, by their log folder. The others run on `world_size` ranks and log under
# 1, as Open MPI 4's `mpirun --output-filename log_output` has it.
_SINGLE_DEVICE = {"tasks.validate": "validate"}


def launch(
    module: str, directory: RunDirectory, environment: Mapping[str, str], patience: Patience = PATIENT
) -> dict[str, Any]:
    """Run `module` on its ranks to the end; return the JSON object that rank 0 printed last.

    Raises `ConfigError`, `RunDirectoryError` (the run directory is in use), `Stopped` (all ranks were told to, and have
    saved), `LaunchError`, or what a rank raised; no process of the launch is left in any case.
    """
    config = directory.read_config()
    with directory.lock() as lock, Interruption() as interruption:
        _end_leftovers(directory, patience)
        preflight.check(module, config, directory)
        world_size = 1 if module in _SINGLE_DEVICE else config.world_size
        site = site_of(config, world_size, directory, environment, patience)
        with _cards(site, directory, interruption) as lease, session_folder(directory.path) as session:
            site.check(preflight.memory_a_rank(module, config), interruption)
            outcome = _prepare(module, directory, site, lease, session).run(interruption, lock)
            if outcome.launch.unfinished():
                site.end_processes()
            return _result(outcome, interruption, directory)


def _cards(site: ThisHost, directory: RunDirectory, interruption: Interruption) -> AbstractContextManager[Lease]:
    """Hold as many of this host's cards as there are ranks here."""
    if not site.ranks_here:
        return nullcontext(Lease((), ()))
    home = home_from(site.environment)
    ledger = CardLedger.of_this_host(home, site.config.device_target, cards_of(site.environment), site.patience)
    return ledger.lease(site.ranks_here, directory.path.name, say, lambda: bool(interruption.reason))


def _end_leftovers(directory: RunDirectory, patience: Patience) -> None:
    """End what an earlier try may have left running: it would hold its cards."""
    if left := LaunchProcesses(directory.path, patience).end(patience.leave_at_once_s):
        say(f"ended {len(left)} processes that an earlier try of {directory.path} had left running")
    remove_abandoned_sessions(directory.path)


def _prepare(module: str, directory: RunDirectory, site: ThisHost, lease: Lease, variables: dict[str, str]) -> Job:
    """Set the logs of an earlier try aside, and put the command together; mpirun gets `variables`, too."""
    processes = LaunchProcesses(directory.path, site.patience)
    folder = directory.path / "log_output" / _SINGLE_DEVICE.get(module, "1")
    if earlier := logs.set_aside(folder):
        say(f"the logs of the try before are in {earlier}")
    folder.mkdir(parents=True)
    environment = (
        without_outer_run(site.environment)
        | processes.environment
        | lease.environment
        | visible_cards.selection(site.config.device_target, lease.cards, site.ranks_here, site.environment)
        | variables
    )
    rank = [sys.executable, "-m", "shardline.launch.rank", "--logs", str(folder), module]
    return Job(
        site.command([*rank, "--run-directory", str(directory.path)], folder, environment),
        environment,
        site.world_size,
        folder,
        processes,
        directory.metrics_file,
        site.config.hang_timeout,
        site.config.termination_grace,
        site.patience,
        lease.descriptors,
        tuple(map(directory.rank_status, range(site.world_size))) if module == preflight.TRAINING else (),
    )


def _result(outcome: Outcome, interruption: Interruption, directory: RunDirectory) -> dict[str, Any]:
    launch = outcome.launch
    if interruption.reason or launch.has_stopped():
        reason = interruption.reason or "the ranks were told to stop"
        kind = Stopped if launch.has_stopped() else LaunchError
        raise kind(f"{reason}: {_how_they_stopped(launch, directory)}; their logs are in {launch.folder}")
    if outcome.hang:
        raise LaunchError(
            "no rank has taken a step or logged a line for longer than hang_timeout: the ranks were stopped. "
            f"Where they stood:\n{outcome.hang}\nAll threads of rank N: {launch.folder}/rank.N/stacks"
        )
    if launch.unfinished():
        raise diagnosis.error(launch)
    if launch.mpirun_exit != 0:
        say(f"all ranks finished, although mpirun ended with exit code {launch.mpirun_exit}")
    if outcome.result is None:
        raise LaunchError(f"rank 0 finished without a result: no JSON object among the lines of {launch.rank(0).log}")
    return outcome.result


def _how_they_stopped(launch: diagnosis.Launch, directory: RunDirectory) -> str:
    """Whether the ranks saved before they left, and from where the next try goes on."""
    steps = ShardSet.steps(directory.checkpoints)
    if launch.has_stopped():
        return f"the ranks saved shard set {steps[-1]} and left; the next try goes on from it"
    if not launch.unfinished():
        return "the ranks had finished"
    start = f"from shard set {steps[-1]}" if steps else "anew"
    return f"the ranks were stopped and have not saved; the next try starts {start}"
