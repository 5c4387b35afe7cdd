"""List the versions of a model, or change which one is current.

shardline models {list,current,rollback N} [--model NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from shardline.run import command_line
from shardline.run.environment import home_from
from shardline.run.tracking import champion_moved
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import ModelStore
from shardline.store.version import Version


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (("list", "all versions, oldest first"), ("current", "the current version")):
        commands.add_parser(name, help=purpose)
    commands.add_parser("rollback", help="make another version current").add_argument("version", type=int)
    for command in commands.choices.values():
        command.add_argument("--model", default=RunConfig.model_fields["model_name"].default, metavar="NAME")
    given = parser.parse_args(arguments)
    return command_line.main(lambda: _answer(given))


def _answer(given: argparse.Namespace) -> dict[str, Any]:
    name = RunConfig.from_json(json.dumps({"model_name": given.model})).model_name
    store = ModelStore(home_from(os.environ), name)
    if given.command == "rollback":
        store.roll_back(given.version)
        champion_moved(name, given.version, os.environ)
    now = store.current()
    if given.command == "list":
        for version in store.versions():
            mark = "*" if now is not None and version.version == now.version else " "
            score = "not measured" if version.value is None else f"{version.metric} {version.value:.4f}"
            print(f"{mark} {version.version:>4}  {score}  {version.digest[:16]}  {version.run}")
        for problem in store.damaged():
            print(f"note: {problem}", file=sys.stderr)
    return {"model": name, "current": _document(now) if now else None}


def _document(version: Version) -> dict[str, Any]:
    return asdict(version) | {"path": str(version.path)}
