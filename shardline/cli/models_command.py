"""List the versions of a model, show what one was made from, or change which one is current.

shardline models {list,current,rollback N} [--model NAME]
shardline models show [MODEL] [VERSION|current|champion] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from shardline.base.errors import PromotionError
from shardline.cli.version_report import report
from shardline.run import command_line
from shardline.run.environment import home_from
from shardline.run.tracking import champion_moved
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import ModelStore
from shardline.store.origin import origin_of
from shardline.store.version import Version

_CURRENT = ("current", "champion")
_VERSION = re.compile(rf"[1-9][0-9]*|{'|'.join(_CURRENT)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (("list", "all versions, oldest first"), ("current", "the current version")):
        commands.add_parser(name, help=purpose)
    commands.add_parser("rollback", help="make another version current").add_argument("version", type=int)
    show = commands.add_parser("show", help="which data and which code made a version")
    show.add_argument(
        "of",
        nargs="*",
        metavar="MODEL VERSION",
        help="one, both or neither: a single word that is a "
        "number, current or champion (MLflow's name for it) is a version",
    )
    show.add_argument("--json", action="store_true", help="one JSON object instead of text")
    for command in commands.choices.values():
        command.add_argument("--model", metavar="NAME")
    given = parser.parse_args(arguments)
    if given.command == "show" and len(given.of) > (2 if given.model is None else 1):
        show.error("expected at most a model and a version")
    return command_line.main(lambda: _show(given) if given.command == "show" else _answer(given))


def _store(name: str | None) -> ModelStore:
    chosen = {} if name is None else {"model_name": name}
    return ModelStore(home_from(os.environ), RunConfig.from_json(json.dumps(chosen)).model_name)


def _answer(given: argparse.Namespace) -> dict[str, Any]:
    store = _store(given.model)
    if given.command == "rollback":
        store.roll_back(given.version)
        champion_moved(store.path.name, given.version, os.environ)
    now = store.current()
    if given.command == "list":
        for version in store.versions():
            mark = "*" if now is not None and version.version == now.version else " "
            score = "not measured" if version.value is None else f"{version.metric} {version.value:.4f}"
            print(f"{mark} {version.version:>4}  {score}  {version.digest[:16]}  {version.run}")
        for problem in store.damaged():
            print(f"note: {problem}", file=sys.stderr)
    return {"model": store.path.name, "current": _document(now) if now else None}


def _show(given: argparse.Namespace) -> dict[str, Any] | None:
    words = list(given.of)
    name = given.model
    if name is None and words and (len(words) == 2 or not _VERSION.fullmatch(words[0])):
        name = words.pop(0)
    store = _store(name)
    version = _chosen(store, words[0] if words else "current")
    shown = {
        "model": store.path.name,
        "is_current": version.version == store.current_number(),
        **{key: value for key, value in _document(version).items() if key not in ("model", "path")},
        "file": str(version.model_file),
        **origin_of(version),
    }
    if given.json:
        return shown
    print(report(shown))
    return None


def _chosen(store: ModelStore, word: str) -> Version:
    if not _VERSION.fullmatch(word):
        raise PromotionError(f"expected the number of a version, current or champion, found {word!r}")
    if word not in _CURRENT:
        return store.version(int(word))
    version = store.current()
    if version is None:
        raise PromotionError(f"{store.path}: nothing was promoted yet: there is no current version")
    return version


def _document(version: Version) -> dict[str, Any]:
    return asdict(version) | {"path": str(version.path)}
