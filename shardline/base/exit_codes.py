"""What processes leave with, so that Airflow, mpirun and scripts know what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

FAILED = 1
BAD_PARAMETERS = 2
"""A parameter is wrong, and trying again is no use: argparse's own code for a wrong command line."""
NOT_SIGNED, SIGNED_BY_ANOTHER, CHANGED_SINCE_SIGNING = 3, 4, 5
"""What `shardline verify` says of a version's signature."""
DECLINED = 99
"""A task declines to do anything: Airflow's own code for a task that ends as skipped."""
STOPPED = 75
"""A rank was told to stop by SIGTERM, and left after all ranks had saved a shard set; the task that started them, too.

What sysexits.h calls EX_TEMPFAIL: trying again goes on from there. `shardline.launch.rank` takes it for a good end
towards mpirun, which would otherwise kill the ranks that are a moment behind.
"""


class ExitCode(int):
    """A code, and the `error` that it stands for, for who runs a module in its own process."""

    error: BaseException | None

    def __new__(cls, code: int, error: BaseException | None = None) -> Self:
        """The number `code`, for `error`."""
        self = super().__new__(cls, code)
        self.error = error
        return self
