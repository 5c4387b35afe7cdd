"""Runs that other runs are yet to read from: whose ids or paths stand in the parameters of runs without a result.

A training that has no shard set of its own begins with the one it resumes from, or with a merged file; a merge on
request that has no output reads another run's slices. They may wait for cards, for a retry, for days.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardline.base.json_object import object_in
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory


def awaited(home: Home) -> dict[Path, str]:
    """The run directories that others below `home` are yet to read from, and why each stays."""
    runs = {}
    for file in home.path.glob("runs/*/*/config.json"):
        reader = RunDirectory(file.parent)
        if not _has_begun(reader):
            for path in _named(home, reader, _parameters(file)):
                runs[path] = f"{reader.path} is yet to read from it"
    return runs


def _has_begun(run: RunDirectory) -> bool:
    """Whether it needs nobody else's files any more."""
    done = (run.train_file, run.merged, run.resharded)
    return any(path.exists() for path in done) or bool(ShardSet.steps(run.checkpoints))


def _parameters(file: Path) -> dict[str, Any]:
    try:
        return object_in(file.read_bytes()) or {}
    except OSError:
        return {}  # a run that cannot be read reads nothing


def _named(home: Home, reader: RunDirectory, parameters: dict[str, Any]) -> Iterator[Path]:
    """The run directories below `home` that the parameters lead to."""
    names = ("resume_from", "run", "start_file", "shards")
    given = {name: str(parameters[name]) for name in names if parameters.get(name)}
    if "resume_from" in given:
        yield from _run_around(home, reader.sibling(given["resume_from"]).path)
    if "run" in given:
        yield from home.runs_named(given["run"])
    for name in ("start_file", "shards"):
        if name in given:
            yield from _run_around(home, reader.path / given[name])
    chosen = parameters.get("values")  # of a described training
    for value in chosen.values() if isinstance(chosen, dict) else ():
        if isinstance(value, str) and value.startswith("/"):
            yield from _run_around(home, Path(value))


def _run_around(home: Home, path: Path) -> Iterator[Path]:
    """The run directory that `path` leads into, if it does."""
    runs = (home.path / "runs").resolve()
    try:
        parts = path.resolve().relative_to(runs).parts
    except (OSError, ValueError, RuntimeError):
        return
    if len(parts) >= 2:
        yield home.path / "runs" / parts[0] / parts[1]
