"""`python -m tasks.launch MODULE [--run-directory DIR]`: run a task's module under mpirun."""

from __future__ import annotations

import os
import sys

from shardline.launch.supervisor import launch
from shardline.run import command_line
from shardline.run.environment import run_directory_from


def main() -> int:
    """The command line; the result of rank 0 is the last line on stdout."""
    parser = command_line.parser(__doc__ or "")
    parser.add_argument("module", help="what every rank runs: tasks.train, tasks.validate")
    arguments = parser.parse_args()
    return command_line.main(lambda: launch(arguments.module, run_directory_from(arguments, os.environ), os.environ))


if __name__ == "__main__":
    sys.exit(main())
