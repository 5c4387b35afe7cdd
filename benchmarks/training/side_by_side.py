"""Sharded ranks beside as many unsharded copies of a plain script, on the same machine, taking turns.

    python -m benchmarks.training.side_by_side [--ranks 8 4 1] [--rounds 3] [--steps 200]

What a step takes on ranks that outnumber the cores says little: that many processes take long whatever they do. The
mark is the tutorial's network in a plain MindSpore script, as many times as there are ranks, each with the whole batch
and nothing to say to the others (`plain_copies`). For each, by the median of the rounds: milliseconds a step, by the
mean of the steps; the seconds of it all; and those of the processor, of all processes of the launch or by the step.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
from pathlib import Path

from benchmarks.training.plain_copies import WARM_UP_STEPS, side_by_side
from benchmarks.training.whole_runs import one_run, steps

SAMPLES = 4500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 4, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="at least as many")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as home:
        for ranks in arguments.ranks:
            rounds = [one_round(Path(home), ranks, arguments.steps) for _ in range(arguments.rounds)]
            print(f"\n{ranks} ranks, load {os.getloadavg()[0]:.1f}")
            for name in rounds[0]:
                values = [found[name] for found in rounds]
                print(f"{name:>38} {statistics.median(values):10.3f}   ({min(values):.3f} to {max(values):.3f})")


def one_round(home: Path, ranks: int, at_least: int) -> dict[str, float]:
    """One training, the copies, and how they compare."""
    sharded = sharded_run(home, ranks, at_least)
    plain = side_by_side(ranks, at_least)
    return (
        {f"sharded: {name}": value for name, value in sharded.items()}
        | {f"plain: {name}": value for name, value in plain.items()}
        | {"times as long a step": sharded["ms a step"] / plain["ms a step"]}
    )


def sharded_run(home: Path, ranks: int, at_least: int) -> dict[str, float]:
    """A training by the launcher of at least so many steps besides those that warm up."""
    batch = 32
    epochs = -(-(at_least + WARM_UP_STEPS) * batch // SAMPLES)
    used = processor_seconds()
    run, whole = one_run(home, {"world_size": ranks, "batch_size": batch, "epochs": epochs}, "tasks.train")
    found = steps(run, WARM_UP_STEPS)
    return {
        "ms a step": found["ms a step, mean"],
        "in collectives, % of steps": found["in collectives, % of steps"],
        "whole, s": whole,
        "processor, s, all": processor_seconds() - used,
    }


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
