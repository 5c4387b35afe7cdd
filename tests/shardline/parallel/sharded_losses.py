"""What one rank of `test_losses` runs: several networks and optimizers, one after another, in one MPI.

    mpirun -n N python -m tests.shardline.parallel.sharded_losses FOLDER

FOLDER has `settings.json`, the runs, and the samples and labels of each network. Logits are computed for runs with
`logits`.
"""

import gc
import json
import os
import sys
from pathlib import Path

import numpy as np
from mindspore import Tensor

from shardline.parallel.backends import backend_of, rank_of
from shardline.parallel.threads import keep_to_one_core
from shardline.settings.run_config import RunConfig
from shardline.training.batches import Batches
from shardline.training.reference import logits_of
from shardline.training.steps import train_step
from tests.rehearsal.networks import rehearsed


def main() -> None:
    keep_to_one_core(os.environ)
    gc.freeze()  # as training does
    folder = Path(sys.argv[1])
    runs = json.loads((folder / "settings.json").read_text())
    world_size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    rank = rank_of(os.environ, world_size)
    joined = False
    losses, logits, weights = {}, {}, {}
    for run in runs:
        config = RunConfig(**({"world_size": world_size} | run["parameters"]))
        network = rehearsed(config, run["network"], Path(run["graph"]) if "graph" in run else None)
        backend = backend_of(config, network, rank)
        if not joined:
            backend.start()
            joined = True
        cell = network.cell(config.batch_size, backend, config.seed)
        step = train_step(cell, config, backend, run["steps"])
        batches = Batches(*np.load(folder / f"{run['network']}.npz").values(), config.batch_size, config.seed)
        outcomes = [step(*(Tensor(array) for array in batches.at(number))) for number in range(run["steps"])]
        losses[run["name"]] = [[float(value.asnumpy()) for value in outcome] for outcome in outcomes]
        if run.get("logits"):
            with backend.uncompiled():
                logits[run["name"]] = logits_of(cell, batches.at(0)[0], config.batch_size)
        weights |= {f"{run['name']}/{p.name}": p.asnumpy() for p in step.get_parameters()}
    np.savez(folder / f"ranks.{rank}.npz", **weights)
    np.savez(folder / f"ranks.losses.{rank}.npz", **losses)
    np.savez(folder / f"ranks.logits.{rank}.npz", **logits)


if __name__ == "__main__":
    main()
