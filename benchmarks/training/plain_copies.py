"""The tutorial's network, unsharded, in several processes side by side: what sharded ranks are measured beside.

    python -m benchmarks.training.plain_copies --copies 8 [--steps 200]

Each copy is the plain MindSpore script (`tests.plain_training`), with as many threads as a rank has; it knows nothing
of the others. They take their steps at the same time: none begins before all have compiled, and who has been timed
goes on until all have been, so that nobody is timed beside fewer. Prints JSON: milliseconds a step, the median of the
copies' means, by the clock; their processor time, added up; and the seconds until all have been timed. (By the median
of its steps a copy would look as if it were alone: most steps fit between two of those that the others take.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

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
    if arguments.as_copy:
        be_one(arguments.steps)
    print(json.dumps(side_by_side(arguments.copies, arguments.steps)))


def side_by_side(copies: int, steps: int) -> dict[str, float]:
    """Start the copies, have them begin together, and put together what they found."""
    threads = threads_per_rank({"OMPI_COMM_WORLD_LOCAL_SIZE": str(copies)})
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    command = [sys.executable, "-m", "benchmarks.training.plain_copies", "--as-copy", "--steps", str(steps)]
    start = time.perf_counter()
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, cwd=PROJECT, env=environment, stdin=pipe, stdout=pipe) for _ in range(copies)]
    for copy in started:
        assert copy.stdout is not None
        copy.stdout.readline()  # it has compiled
    for copy in started:
        assert copy.stdin is not None
        copy.stdin.write(b"go\n")
        copy.stdin.flush()
    found = [json.loads(copy.stdout.readline()) for copy in started if copy.stdout is not None]
    whole = time.perf_counter() - start
    for copy in started:
        copy.communicate()  # closes its standard input, which ends it
    return {
        "ms a step": statistics.median(one["ms a step"] for one in found),
        "processor ms a step, all": sum(one["processor ms a step"] for one in found),
        "whole, s": whole,
    }


def be_one(steps: int) -> NoReturn:
    """Train from when a line comes, print the milliseconds of a step, and go on until no more lines can come."""
    import mindspore

    from tests.plain_training import batches, train_step

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    settings = plain_settings(RunConfig(world_size=1)) | {"steps": WARM_UP_STEPS + steps}
    step, taken = train_step(settings), batches(settings)
    float(step(*next(taken)).asnumpy())
    print("compiled", flush=True)
    sys.stdin.readline()
    threading.Thread(target=leave_at_the_end_of_input, daemon=True).start()
    for _ in range(WARM_UP_STEPS - 1):
        float(step(*next(taken)).asnumpy())
    taken = list(taken)
    since, used = time.perf_counter(), time.process_time()
    for batch in taken:
        float(step(*batch).asnumpy())
    found = {
        "ms a step": 1000 * (time.perf_counter() - since) / steps,
        "processor ms a step": 1000 * (time.process_time() - used) / steps,
    }
    print(json.dumps(found), flush=True)
    while True:
        for batch in taken:
            float(step(*batch).asnumpy())


def leave_at_the_end_of_input() -> NoReturn:
    sys.stdin.read()
    os._exit(0)


def plain_settings(config: RunConfig) -> dict[str, Any]:
    """What `tests.plain_training` takes to train the tutorial's network as `config` says."""
    network: Any = network_of(RunConfig(network="mlp", world_size=1))
    layers = [[layer.name, layer.inputs, layer.outputs, layer.activation == "relu"] for layer in network.layers]
    return config.model_dump(mode="json") | {"layers": layers}


if __name__ == "__main__":
    main()
