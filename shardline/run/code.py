"""Which code makes a run's model: its `code.json`.

    {"format": 1, "code": [{"shardline": {"version": …, "commit": …, "changed": …},
                            "program": {"folder": …, "commit": …, "changed": …}}]}

An entry for each code that the run was prepared or trained with, the newest last; nearly always there is one. `program`
is the user's own: what a described training starts, or the module of a network that is not built in; `null` where
there is none. `commit` is `null` outside a git checkout, `changed` where git did not say. Installed packages are no
part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import shardline
from shardline.base import atomic
from shardline.base.errors import RunDirectoryError
from shardline.run.described_run import program_of
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.run.git_checkout import Checkout, checkout_around, checkout_at
from shardline.settings.run_config import RunConfig
from shardline.settings.run_parameters import BUILT_IN_NETWORKS
from shardline.settings.training_config import TrainingConfig

FORMAT = 1
_MOST_ENTRIES = 64
_INSTALLED = ("site-packages", "dist-packages")
Code = dict[str, Any]


def record_code(run: RunDirectory, home: Home, config: RunConfig | TrainingConfig) -> None:
    """Add the code as it is now to the run's `code.json`, unless it is what stands there last."""
    known, now = read_code(run), _code_of(run, home, config)
    if known[-1:] == [now]:
        return
    document = {"format": FORMAT, "code": [*known, now][-_MOST_ENTRIES:]}
    atomic.write_text(run.code_file, json.dumps(document, indent=1) + "\n")


def read_code(run: RunDirectory) -> list[Code]:
    """What the run's `code.json` says, the newest code last; nothing where an earlier Shardline prepared the run."""
    return code_in(run.code_file.read_bytes(), run.code_file) if run.code_file.is_file() else []


def code_in(content: bytes, file: Path) -> list[Code]:
    """The entries of a `code.json`, which was read from `file`; `RunDirectoryError` where it is none."""
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, expected {FORMAT}")
        entries: list[Code] = [
            {"shardline": dict(entry["shardline"]), "program": entry["program"] and dict(entry["program"])}
            for entry in document["code"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunDirectoryError(f"{file}: expected which code the run was made with ({error!r}); remove it") from error
    return entries


def _code_of(run: RunDirectory, home: Home, config: RunConfig | TrainingConfig) -> Code:
    own = checkout_at(PROJECT)
    return {"shardline": {"version": shardline.__version__, **_commit(own)}, "program": _program(run, home, config)}


def _program(run: RunDirectory, home: Home, config: RunConfig | TrainingConfig) -> Code | None:
    """The user's code; the first of the places that may hold it which is a checkout, or else the first."""
    if isinstance(config, TrainingConfig):
        places = program_of(run, config)
    elif config.network in BUILT_IN_NETWORKS:
        return None
    else:
        file = _module_file(config.network.partition(":")[0])
        places = [] if file is None else [(file.parent, file)]
    # A run directory may lie in Shardline's checkout, and a virtual environment in anybody's: neither is its code.
    places = [
        (folder, file)
        for folder, file in places
        if not folder.is_relative_to(home.path.resolve()) and not set(_INSTALLED).intersection(folder.parts)
    ]
    for folder, file in places:
        if found := checkout_around(folder, file):
            return {"folder": str(folder), **_commit(found)}
    return {"folder": str(places[0][0]), **_commit(None)} if places else None


def _commit(found: Checkout | None) -> Mapping[str, Any]:
    return {"commit": found and found.commit, "changed": found and found.changed}


def _module_file(name: str) -> Path | None:
    """Where a module lies, found without importing anything."""
    path: list[str] | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return None if spec is None or not spec.has_location or spec.origin is None else Path(spec.origin).resolve()
