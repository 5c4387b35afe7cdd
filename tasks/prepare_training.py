"""The first task of a described training: validate its parameters, and look whether its command can be started.

    python -m tasks.prepare_training FILE [--run-directory DIR] [--parameters JSON]

FILE is the name of a description in SHARDLINE_TRAININGS. Leaves `config.json` in the run directory, with the
description as it is now, and `code.json`: a change of the file counts for runs that are prepared after it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from shardline.export.promoted import mapping_of
from shardline.run.code import record_code
from shardline.run.command_line import main, parser
from shardline.run.described_run import prepare_training
from shardline.run.environment import home_from, parameters_from, run_directory_from
from shardline.run.identity import write_identity
from shardline.settings.trainings import training_file
from shardline.store.signing_key import signing_key


def _command_line() -> int:
    arguments = parser(__doc__ or "")
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("file", metavar="FILE", help="a description in SHARDLINE_TRAININGS")
    arguments.add_argument("--parameters", metavar="JSON", help="all parameters, as one JSON object")
    given = arguments.parse_args()

    def task() -> Mapping[str, Any]:
        file = training_file(given.file, os.environ)
        parameters, run = parameters_from(given, os.environ), run_directory_from(given, os.environ)
        with run.lock():
            write_identity(run.path, os.environ)
            home = home_from(os.environ)
            signing_key(home, os.environ)  # refused now, or after the training
            prepared = prepare_training(run, home, file, parameters, os.environ)
            record_code(run, home, run.read_any_config())
            mapping_of(run.read_any_config(), home, os.environ)
            return prepared

    return main(task)


if __name__ == "__main__":
    sys.exit(_command_line())
