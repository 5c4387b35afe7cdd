"""Steps a second of sharded training beside a plain MindSpore script, on 1, 4 and 8 ranks of this machine.

    python -m benchmarks.training.steps [--steps 200] [--ranks 1 4 8] [--optimizer Adam] [--batch-size 32]

At every number of ranks, the loop of `tasks.train` (batches, metrics, log lines; nothing is saved) and, on one rank,
the plain script's take turns, so that both meet the same load. Reported: medians, their ratio, and processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="steps a round")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--optimizer", default="Adam")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        measure(arguments)
        return
    print(f"{arguments.optimizer}, batch {arguments.batch_size}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'ranks':>5} {'steps/s':>9} {'ms/step':>8} {'cpu ms/step, all ranks':>23}   beside the plain script")
    for ranks in arguments.ranks:
        report(ranks, run(ranks))


def run(ranks: int) -> dict[str, Any]:
    """What rank 0 of `ranks` measured."""
    mpirun = [str(Path(sys.executable).with_name("mpirun")), "--oversubscribe", "--allow-run-as-root"]
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        command = [*mpirun, "--bind-to", "none", "-n", str(ranks), sys.executable, "-m", "benchmarks.training.steps"]
        environment = os.environ | {"SHARDLINE_MASTER_ADDRESS": "127.0.0.1", "SHARDLINE_MASTER_PORT": port}
        if ranks > 1:
            environment.setdefault("OMP_NUM_THREADS", "1")
        output = Path(folder) / "measured"
        subprocess.run(
            [*command, *sys.argv[1:], "--rank", str(output)],
            cwd=PROJECT,
            env=environment | {"GLOG_v": "3"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found: dict[str, Any] = json.loads((output).read_text())
        return found


def report(ranks: int, found: dict[str, Any]) -> None:
    seconds = statistics.median(found["sharded"])
    line = f"{ranks:>5} {1 / seconds:>9.1f} {seconds * 1e3:>8.2f} {found['cpu'] * ranks * 1e3:>23.1f}"
    if found["plain"]:
        ratios = [ours / plain for ours, plain in zip(found["sharded"], found["plain"], strict=True)]
        plain = statistics.median(found["plain"])
        line += f"   plain {1 / plain:.1f} steps/s; ours takes {statistics.median(ratios):.3f} times as long"
    print(line, flush=True)


def measure(arguments: argparse.Namespace) -> None:
    """On every rank: seconds a step, round by round."""
    from mindspore import Tensor

    from tasks.config import RunConfig
    from tasks.networks import network_of
    from tasks.networks.cells import build
    from tasks.parallel.backend import backend_of, rank_of
    from tasks.training.batches import Batches
    from tasks.training.loop import Loop
    from tasks.training.metrics import Metrics
    from tasks.training.phases import Phases
    from tasks.training.receipts import Receipts
    from tasks.training.steps import train_step
    from tests import plain_training

    world_size = int(os.environ["OMPI_COMM_WORLD_SIZE"])
    config = RunConfig(world_size=world_size, optimizer=arguments.optimizer, batch_size=arguments.batch_size)
    network = network_of(config)
    backend = backend_of(config, network, rank_of(os.environ, world_size))
    backend.start()
    cell = train_step(build(network, config.batch_size, backend, config.seed), config)
    batches = Batches(*plain_training.samples(), config.batch_size, config.seed)
    backend.compile(cell, *(Tensor(array) for array in batches.at(0)))
    layers = [[layer.name, layer.inputs, layer.outputs, layer.activation == "relu"] for layer in network.layers]
    settings = config.model_dump() | {"layers": layers, "steps": arguments.steps}
    plain_step = plain_training.train_step(settings) if world_size == 1 else None
    metrics = Metrics(arguments.rank.with_suffix(".jsonl") if backend.rank == 0 else None, 0)
    loop = Loop(cell, batches, metrics, NothingSaved(), Phases())
    found: dict[str, Any] = {"sharded": [], "plain": []}
    for number in range(ROUNDS + 1):
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        loop.run(number * arguments.steps, (number + 1) * arguments.steps, save_every=10**9)
        found["sharded"].append((time.perf_counter() - start) / arguments.steps)
        used = resource.getrusage(resource.RUSAGE_SELF)
        found["cpu"] = (used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime) / arguments.steps
        if plain_step is not None:
            start = time.perf_counter()
            for batch in plain_training.batches(settings):
                float(plain_step(*batch).asnumpy())
            found["plain"].append((time.perf_counter() - start) / arguments.steps)
    if backend.rank == 0:
        arguments.rank.write_text(
            json.dumps({key: value[1:] if key != "cpu" else value for key, value in found.items()})
        )
    Receipts(arguments.rank.parent).leave_together(backend.rank, world_size)
    sys.stdout.flush()
    os._exit(0)


class NothingSaved:
    """A saver for loops that only compute."""

    def save(self, step: int, epoch: int, step_in_epoch: int) -> None:
        """Leave nothing."""


if __name__ == "__main__":
    main()
