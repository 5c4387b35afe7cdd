"""Merge any shard set: of a run, or of a folder below an allowed root.

    python -m tasks.merge_checkpoint [--run-directory DIR] [--parameters JSON]

The parameters (`MergeCheckpointConfig`) come from `--parameters`, or else from the environment's SHARDLINE_PARAMETERS.
Slices and strategies are read below HOME and the folders of SHARDLINE_ALLOWED_ROOTS (separated by `:`) alone, symbolic
links resolved; the merge itself refuses slices that lie outside their folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from shardline.base.progress import ReportingMeter
from shardline.base.termination import clean_up_when_terminated
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.command_line import main, parser
from shardline.run.environment import home_from, parameters_from, run_directory_from
from shardline.run.identity import write_identity
from shardline.run.merge_on_request import merge_checkpoint
from shardline.settings.merge_config import MergeCheckpointConfig


def _command_line() -> int:
    arguments = parser(__doc__ or "")
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("--parameters", metavar="JSON", help="all parameters, as one JSON object")
    given = arguments.parse_args()

    def task() -> Mapping[str, Any]:
        config = MergeCheckpointConfig.from_json(parameters_from(given, os.environ))
        run, home = run_directory_from(given, os.environ), home_from(os.environ)
        meter = ReportingMeter(sys.stderr)
        with run.lock(), meter.running():
            write_identity(run.path, os.environ)
            return merge_checkpoint(run, home, AllowedRoots.of(home, os.environ), config, meter)

    return main(task)


if __name__ == "__main__":
    with clean_up_when_terminated():
        sys.exit(_command_line())
