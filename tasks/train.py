"""Train a network, sharded over the ranks that mpirun started. Every rank runs this.

    python -m tasks.launch tasks.train --run-directory DIR        (one rank, without mpirun: python -m tasks.train)

Leaves the strategy file, shard sets, metrics and reference logits in the run directory. Where that has a complete
shard set of the same configuration, training goes on from its step and ends with the same weights, bit for bit.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from shardline.networks.train_spec import TrainSpec
from shardline.parallel.backends import backend_of, rank_of
from shardline.parallel.strategies import with_strategies_of
from shardline.parallel.threads import keep_to_one_core, threads_per_rank
from shardline.recipes.lookup import check_network, train_spec
from shardline.run import command_line
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from, run_directory_from
from shardline.run.given_paths import with_real_start
from shardline.run.readers import reading
from shardline.settings.run_config import RunConfig
from shardline.training.phases import Phases


def train(run: RunDirectory, environment: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Train the run's network on this rank; rank 0 returns the result."""
    phases = Phases()
    config = with_real_start(run.read_config(), run, AllowedRoots.of(home_from(environment), environment))
    rank = rank_of(environment, config.world_size)
    spec = _sharded_spec(config, run)
    if config.device_target == "CPU":
        keep_to_one_core(environment)
    with phases.measure("imports"):
        gc.disable()
        from shardline.training.session import run_rank
    gc.freeze()  # what MindSpore consists of stays: looking through it again and again takes a fifth of compiling
    gc.enable()
    with nullcontext() if config.resume_from is None else reading(Path(config.resume_from)):
        return run_rank(run, config, spec, backend_of(config, spec.network, rank), phases)


def _sharded_spec(config: RunConfig, run: RunDirectory) -> TrainSpec:
    """What is trained, the network with its strategies: as declared, or as `strategy_load_file` says."""
    spec = train_spec(config, run.network_file)
    if config.strategy_load_file is not None and config.world_size > 1:
        network = with_strategies_of(spec.network, Path(config.strategy_load_file), config.world_size)
        spec = replace(spec, network=network)
    check_network(spec.network, config)
    return spec


def set_environment() -> None:
    """Before NumPy or MindSpore is loaded, which read these then. What the user has set stays."""
    threads = threads_per_rank(os.environ)
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("GLOG_v", "3")  # errors only: MindSpore warns dozens of times when a cluster forms


def main() -> int:
    """The command line of one rank."""
    set_environment()
    arguments = command_line.parser("Train a network, as one rank of mpirun's.").parse_args()
    return command_line.main(lambda: train(run_directory_from(arguments, os.environ), os.environ))


if __name__ == "__main__":
    sys.exit(main())
