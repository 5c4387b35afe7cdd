"""What one rank of `test_losses` runs: several networks and optimizers, one after another, in one MindSpore cluster.

mpirun -n N python -m tests.parallel.sharded_losses SETTINGS.json OUTPUT
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from mindspore import Tensor

from tasks.config import RunConfig
from tasks.networks.cells import build
from tasks.parallel.backend import backend_of, rank_of
from tasks.training.batches import Batches
from tasks.training.receipts import Receipts
from tasks.training.steps import train_step
from tests.plain_training import samples
from tests.rehearsal.networks import rehearsed


def main() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())
    world_size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    rank = rank_of(os.environ, world_size)
    joined = False
    losses, weights = {}, {}
    for run in runs:
        config = RunConfig(world_size=world_size, **run["parameters"])
        network = rehearsed(config, run["network"])
        backend = backend_of(config, network, rank)
        if not joined:
            backend.start()
            joined = True
        step = train_step(build(network, config.batch_size, backend, config.seed), config)
        batches = Batches(*samples(), config.batch_size, config.seed)
        losses[run["name"]] = [
            float(step(*(Tensor(array) for array in batches.at(number))).asnumpy()) for number in range(run["steps"])
        ]
        weights |= {f"{run['name']}/{p.name}": p.asnumpy() for p in step.get_parameters()}
    np.savez(f"{sys.argv[2]}.{rank}.npz", **weights)
    np.savez(f"{sys.argv[2]}.losses.{rank}.npz", **losses)
    Receipts(Path(sys.argv[2]).parent).leave_together(rank, world_size)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
