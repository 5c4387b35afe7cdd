"""Validate the merged model, and fail where it must not be promoted.

    python -m tasks.launch tasks.validate [--run-directory DIR]

The launcher holds the run directory meanwhile.
"""

from __future__ import annotations

import os
import sys

from shardline.run import command_line
from shardline.run.environment import home_from, run_directory_from
from shardline.validation.examination import validate


def main() -> int:
    """The rank's command line."""
    arguments = command_line.parser(__doc__ or "").parse_args()
    return command_line.main(lambda: validate(run_directory_from(arguments, os.environ), home_from(os.environ)))


if __name__ == "__main__":
    sys.exit(main())
