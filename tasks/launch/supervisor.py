"""One launch, from the first check to the last process.

The supervisor holds the run directory's lock, ends what an earlier try left, checks what can be checked, waits for its
cards (`tasks.cards`), starts mpirun in a session of its own, follows rank 0's log, and at the end leaves no process
behind, however the end came:

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

import os
import sys
from collections.abc import Mapping
from typing import Any

from tasks.cards import CardLedger, Lease, cards_of
from tasks.checkpoint.shard_set import ShardSet
from tasks.command_line import home_from
from tasks.config import RunConfig
from tasks.errors import LaunchError
from tasks.launch import diagnosis, logs, mpirun, preflight
from tasks.launch.interruption import Interruption
from tasks.launch.job import Job, Outcome
from tasks.launch.processes import LaunchProcesses
from tasks.run_directory import RunDirectory

# Tasks of one process on one device, by their log folder. The others run on `world_size` ranks and log under
# 1, as Open MPI 4's `mpirun --output-filename log_output` has it.
_SINGLE_DEVICE = {"tasks.validate": "validate"}


def launch(module: str, directory: RunDirectory, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run `module` on its ranks to the end; return the JSON object that rank 0 printed last.

    Raises `ConfigError`, `RunDirectoryError` (the run directory is in use) or `LaunchError`; no process of the launch
    is left in any case.
    """
    config = directory.read_config()
    world_size = _world_size(module, config)
    with directory.lock() as lock, Interruption() as interruption:
        _end_leftovers(directory)
        preflight.check(module, config, directory, world_size, environment)
        ledger = CardLedger.of_this_host(home_from(environment), config.device_target, cards_of(environment))
        with ledger.lease(world_size, directory.path.name, _say, lambda: bool(interruption.reason)) as lease:
            job = _prepare(module, config, directory, lease, environment)
            return _result(job.run(interruption, lock), interruption, directory)


def _end_leftovers(directory: RunDirectory) -> None:
    """End what an earlier try may have left running: it would hold its cards."""
    if left := LaunchProcesses(directory.path).end(grace_s=1):
        _say(f"ended {len(left)} processes that an earlier try of {directory.path} had left running")


def _world_size(module: str, config: RunConfig) -> int:
    return 1 if module in _SINGLE_DEVICE else config.world_size


def _prepare(
    module: str, config: RunConfig, directory: RunDirectory, lease: Lease, environment: Mapping[str, str]
) -> Job:
    """Set the logs of an earlier try aside, and put the command together."""
    world_size, processes = _world_size(module, config), LaunchProcesses(directory.path)
    launcher = mpirun.find(environment)
    master = {
        "SHARDLINE_MASTER_ADDRESS": preflight.MASTER_ADDRESS,
        "SHARDLINE_MASTER_PORT": str(preflight.master_port(config)),
    }
    folder = directory.path / "log_output" / _SINGLE_DEVICE.get(module, "1")
    if earlier := logs.set_aside(folder):
        _say(f"the logs of the try before are in {earlier}")
    folder.mkdir(parents=True)
    rank = [sys.executable, "-m", "tasks.launch.rank", "--logs", str(folder), module]
    return Job(
        launcher.command(world_size, [*rank, "--run-directory", str(directory.path)], as_root=os.geteuid() == 0),
        mpirun.without_outer_run(environment) | processes.environment | lease.environment | master,
        world_size,
        folder,
        processes,
        directory.metrics_file,
        config.hang_timeout,
        config.termination_grace,
        lease.descriptors,
    )


def _result(outcome: Outcome, interruption: Interruption, directory: RunDirectory) -> dict[str, Any]:
    launch = outcome.launch
    if interruption.reason or launch.has_stopped():
        reason = interruption.reason or "the ranks were told to stop"
        raise LaunchError(f"{reason}: {_how_they_stopped(launch, directory)}; their logs are in {launch.folder}")
    if outcome.hang:
        raise LaunchError(
            "no rank has taken a step or logged a line for longer than hang_timeout: the ranks were stopped. "
            f"Where they stood:\n{outcome.hang}\nAll threads of rank N: {launch.folder}/rank.N/stacks"
        )
    if launch.unfinished():
        raise diagnosis.error(launch)
    if launch.mpirun_exit != 0:
        _say(f"all ranks finished, although mpirun ended with exit code {launch.mpirun_exit}")
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


def _say(message: str) -> None:
    print(f"launch: {message}", file=sys.stderr, flush=True)
