"""`tasks.train` with collectives that pass on what they are given: what its steps take is computing alone.

The ranks compute what they would, of the same shapes, on the same cores at the same time; the losses mean nothing.
`benchmarks.training.whole_runs` has the launcher start it.
"""

from __future__ import annotations

import sys

from tasks import train


def pass_on_what_is_given() -> None:
    """Take the sums over ranks out of the graph."""
    from shardline.parallel.cpu.collectives import Group

    Group.summed = Group.of_room = lambda group, values: values  # type: ignore[method-assign]


if __name__ == "__main__":
    train.set_environment()
    pass_on_what_is_given()
    sys.exit(train.main())
