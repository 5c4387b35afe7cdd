"""`tasks.train` with collectives that pass on what they are given: what its steps take is computing alone.

The ranks compute what they would, of the same shapes, on the same cores at the same time; the losses mean nothing.
`benchmarks.training.whole_runs` has the launcher start it.
"""

from __future__ import annotations

import sys

from tasks import train


def pass_on_what_is_given() -> None:
    """Take the AllReduces out of the cells that the CPU backend will make."""
    from mindspore import ops

    from shardline.parallel.cpu.operators import Bucket

    make = Bucket.__init__

    def make_without(self: Bucket, *arguments: object) -> None:
        make(self, *arguments)  # type: ignore[arg-type]
        if self.all_reduce is not None:
            self.all_reduce = ops.Identity()

    Bucket.__init__ = make_without  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    train.set_environment()
    pass_on_what_is_given()
    sys.exit(train.main())
