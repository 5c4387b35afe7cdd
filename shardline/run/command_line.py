"""The command line that all tasks share.

    python -m tasks.NAME [--run-directory DIR]

Without `--run-directory`, the run directory follows from the environment, as the DAG sets it: SHARDLINE_HOME,
SHARDLINE_DAG_ID and SHARDLINE_RUN_ID. The last line on stdout is a JSON object of paths and digests: the task's XCom.
A `ShardlineError` ends the task with its message on stderr and its class's exit code (`shardline.base.errors`): 1, or 2
where a parameter is wrong and trying again is no use, 99 where a task declines to do anything, or 75 where ranks were
told to stop and have saved.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError, ShardlineError
from shardline.base.exit_codes import FAILED, ExitCode
from shardline.base.remedies import advised
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from, run_directory_from
from shardline.run.failures import record_outcome

# Failures to write or read that no task can foresee: they are the machine's, not a defect of ours.
_OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
)


def parser(description: str) -> argparse.ArgumentParser:
    """A parser that knows `--run-directory`."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--run-directory", type=Path, metavar="DIR", help="the run's folder")
    return arguments


def main(run: Callable[[], Mapping[str, Any] | None]) -> int:
    """Run a task, print its result (unless `None`) as the last line, and return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text, or more than the terminal has
    try:
        result = run()
    except ShardlineError as error:
        sys.stdout.flush()
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        _record(error)
        return ExitCode(error.exit_code, error)
    except Exception as error:
        _record(error)
        if not isinstance(error, OSError) or error.errno not in _OF_THE_MACHINE:
            raise
        sys.stdout.flush()
        print(f"{type(error).__name__}: {advised(error)}", file=sys.stderr, flush=True)
        return ExitCode(FAILED, error)
    _record(None)
    if result is not None:
        print(json.dumps(result), flush=True)
    return 0


def _record(error: Exception | None) -> None:
    """Leave how the task ended in its run, and tell MLflow; that it cannot be told is a note after the error."""
    try:
        home = home_from(os.environ)
    except ConfigError:
        return  # without a shared folder there is no run to leave it in: an installed library, used by hand
    record_outcome(home, os.environ, error)
    if os.environ.get("SHARDLINE_MLFLOW_URI"):
        from shardline.run.tracking import track_outcome  # what most commands do without

        track_outcome(home, os.environ, error)


def run_task(description: str, task: Callable[[RunDirectory], Mapping[str, Any]]) -> int:
    """The whole command line of a task that needs nothing but its run directory, which it holds while it runs."""
    arguments = parser(description).parse_args()

    def locked() -> Mapping[str, Any]:
        directory = run_directory_from(arguments, os.environ)
        with directory.lock():
            return task(directory)

    return main(locked)
