"""What a rank holds of parameters and optimizer states, beside 1/N of the whole: from the layouts, without training.

    python -m benchmarks.training.memory [--parameters '{"network": "gpt"}'] [--ranks 1 2 4 8]

Where a number of ranks cannot shard the network by its strategies, that is said.
"""

from __future__ import annotations

import argparse
import json
from math import prod
from typing import Any

from shardline.base.errors import ShardlineError
from shardline.parallel.layouts import layouts_of
from shardline.recipes.lookup import check_network_of, network_of
from shardline.settings.run_config import RunConfig

BYTES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", default='{"network": "gpt"}', help="RunConfig's, as JSON")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    names = ("ranks", "tensor", "MB", "of the whole", "states shared out, MB", "of the whole", "1/N")
    print(" ".join(name.rjust(width) for name, width in zip(names, (5, 6, 8, 13, 22, 13, 6), strict=True)))
    for ranks in arguments.ranks:
        for tensor_parallel in sorted({1, min(ranks, 4)}):
            chosen = json.loads(arguments.parameters) | {"world_size": ranks, "tensor_parallel": tensor_parallel}
            try:
                print(line(chosen), flush=True)
            except ShardlineError as error:
                print(f"{ranks:>5} {tensor_parallel:>6} {str(error).splitlines()[-1].strip()}")


def line(parameters: dict[str, Any]) -> str:
    plain, shared = (held(parameters | {"enable_parallel_optimizer": on}) for on in (False, True))
    ranks = parameters["world_size"]
    return (
        f"{ranks:>5} {parameters['tensor_parallel']:>6} {plain[0] / 1e6:>8.3f} {plain[0] / plain[1]:>13.1%} "
        f"{shared[0] / 1e6:>22.3f} {shared[0] / shared[1]:>13.1%} {1 / ranks:>6.1%}"
    )


def held(parameters: dict[str, Any]) -> tuple[int, int]:
    """Bytes of all tensors that a strategy shards: one rank's, and the whole."""
    config = RunConfig(**parameters)
    check_network_of(config)
    network = network_of(config)
    shapes = network.parameters()
    rank = whole = 0
    for name, layout in layouts_of(network, config).items():
        size = prod(shapes[name.split(".", 1)[1] if name not in shapes else name]) * BYTES
        whole += size
        rank += size // prod(layout.shards())
    return rank, whole


if __name__ == "__main__":
    main()
