"""What the environment says: where the shared folder is, and which run a task belongs to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.run.directory import Home, RunDirectory

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout; of an installed library, the folder that it is installed in."""


def home_from(environment: Mapping[str, str]) -> Home:
    """The shared folder: SHARDLINE_HOME, or `var` in the checkout; `ConfigError` where there is neither."""
    if named := environment.get("SHARDLINE_HOME"):
        return Home(Path(named).absolute())
    if not (PROJECT / "dags").is_dir():
        raise ConfigError(
            "SHARDLINE_HOME is not set; set it to the folder that all workers share, of runs, data and models"
        )
    return Home(PROJECT / "var")


def document_from(environment: Mapping[str, str], name: str) -> str | None:
    """The document that a DAG passes to a task: the file that `NAME_FILE` names, or else `NAME` itself."""
    file = environment.get(f"{name}_FILE")
    return environment.get(name) if file is None else Path(file).read_text(encoding="utf-8")


def parameters_from(arguments: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """A task's parameters: `--parameters`, or else the document SHARDLINE_PARAMETERS, or else all the defaults."""
    if arguments.parameters is not None:
        return str(arguments.parameters)
    document = document_from(environment, "SHARDLINE_PARAMETERS")
    return "{}" if document is None else document


def run_directory_from(arguments: argparse.Namespace, environment: Mapping[str, str]) -> RunDirectory:
    """The run directory that `--run-directory` names, or else the environment."""
    if arguments.run_directory is not None:
        return RunDirectory(arguments.run_directory.absolute())
    try:
        return RunDirectory(
            home_from(environment).run(environment["SHARDLINE_DAG_ID"], environment["SHARDLINE_RUN_ID"])
        )
    except KeyError as error:
        raise ConfigError(f"which run? Give --run-directory DIR, or set {error.args[0]}") from error
