"""Tell MLflow what it has not been told of any run, since it was down or slow.

shardline track

SHARDLINE_MLFLOW_URI names the server, SHARDLINE_HOME the folder of all runs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from shardline.base.errors import ConfigError, TrackingError
from shardline.run import command_line
from shardline.run.environment import home_from
from shardline.run.tracking import send_notes
from shardline.tracking.mlflow_server import MLflowServer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    return command_line.main(_told)


def _told() -> dict[str, Any]:
    server, home = MLflowServer.of(os.environ), home_from(os.environ)
    if server is None:
        raise ConfigError("SHARDLINE_MLFLOW_URI is not set; set it to the address of the MLflow server")
    if problems := send_notes(home, server):
        raise TrackingError("; ".join(problems))
    return {"mlflow": server.uri, "untold": 0}
