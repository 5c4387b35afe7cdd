"""The tutorial's network, unsharded, in several processes side by side: what sharded ranks are measured beside.

    python -m benchmarks.training.plain_copies --copies 8 [--steps 200]

Each copy is the plain MindSpore script (`tests.plain_training`), with as many threads as a rank has; it knows nothing
of the others. They take their steps at the same time: none begins before all have compiled. Prints JSON: milliseconds a
step, the median of the copies' means, and seconds by the clock and of the processor, of all copies together. (By the
median of its steps a copy would look as if it were alone: most steps fit between two of those that the others take.)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shardline.parallel.threads import threads_per_rank
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig

PROJECT = Path(__file__).parents[2]
WARM_UP_STEPS = 60
"""MindSpore 2.10 tries numbers of threads in its first 50 steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--as-copy", action="store_true", help="be one of them")
    arguments = parser.parse_args()
    print(
        json.dumps(one_copy(arguments.steps) if arguments.as_copy else side_by_side(arguments.copies, arguments.steps))
    )


def side_by_side(copies: int, steps: int) -> dict[str, float]:
    """Start the copies, have them begin together, and put together what they found."""
    threads = threads_per_rank({"OMPI_COMM_WORLD_LOCAL_SIZE": str(copies)})
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    command = [sys.executable, "-m", "benchmarks.training.plain_copies", "--as-copy", "--steps", str(steps)]
    start, used = time.perf_counter(), processor_seconds()
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, cwd=PROJECT, env=environment, stdin=pipe, stdout=pipe) for _ in range(copies)]
    for copy in started:
        assert copy.stdout is not None
        copy.stdout.readline()  # it has compiled
    for copy in started:
        assert copy.stdin is not None
        copy.stdin.write(b"go\n")
        copy.stdin.flush()
    found = [json.loads(copy.communicate()[0]) for copy in started]
    return {
        "ms a step": statistics.median(one["ms a step"] for one in found),
        "processor ms a step, all": sum(one["processor ms a step"] for one in found),
        "whole, s": time.perf_counter() - start,
        "processor, s, all": processor_seconds() - used,
    }


def one_copy(steps: int) -> dict[str, float]:
    """Train, from when a line comes; milliseconds a step."""
    import mindspore

    from tests.plain_training import batches, train_step

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    settings = plain_settings(RunConfig(world_size=1)) | {"steps": WARM_UP_STEPS + steps}
    step, taken = train_step(settings), batches(settings)
    float(step(*next(taken)).asnumpy())
    print("compiled", flush=True)
    sys.stdin.readline()
    for _ in range(WARM_UP_STEPS - 1):
        float(step(*next(taken)).asnumpy())
    taken = list(taken)
    since, used = time.perf_counter(), time.process_time()
    for batch in taken:
        float(step(*batch).asnumpy())
    return {
        "ms a step": 1000 * (time.perf_counter() - since) / steps,
        "processor ms a step": 1000 * (time.process_time() - used) / steps,
    }


def plain_settings(config: RunConfig) -> dict[str, Any]:
    """What `tests.plain_training` takes to train the tutorial's network as `config` says."""
    network: Any = network_of(RunConfig(network="mlp", world_size=1))
    layers = [[layer.name, layer.inputs, layer.outputs, layer.activation == "relu"] for layer in network.layers]
    return config.model_dump(mode="json") | {"layers": layers}


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
