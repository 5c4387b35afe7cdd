"""From what a run's model was made, by digests: the one answer that a version's `lineage.json`, the command
`shardline models show`, MLflow, OpenLineage and the run page give.

    {"format": 1,
     "run": {"folder": "runs/DAG/RUN", "dag_id": …, "run_id": …},
     "data": {"digest": …, "source": …, "directory": …},
     "start": {"version": …, "digest": …, …},              what `start.json` says
     "shard_set": {"step": …, "epoch": …, "world_size": …, "digest": …},
     "strategies": [digest, …],
     "merged": {"file": …, "digest": …, "size": …},
     "code": [{"shardline": …, "program": …}, …]}           what `code.json` says

Digests are BLAKE3: `data` of all the data's content, the others of a file: the manifest of the shard set, which has the
digests of all slices; the strategy files; the merged file, or the index of several. What no task has written, or an
earlier Shardline did not record, is `null`. A described training reads its data itself: nobody knows their digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from shardline.base.errors import RunDirectoryError
from shardline.checkpoint.merging.record_file import Record, published_files, read_record
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.code import code_in
from shardline.run.directory import Home, RunDirectory

FORMAT = 1
LINEAGE = "lineage.json"
"""Its name among the files of a version."""
Lineage = dict[str, Any]


@dataclass(frozen=True)
class Reader:
    """How the run's files are read: the content of one, and the record of a merge; `None` where there is none."""

    content: Callable[[Path], bytes | None]
    record: Callable[[Path], Record | None]


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _record(file: Path) -> Record | None:
    return read_record(file) if file.is_file() else None


PLAIN = Reader(_content, _record)


def lineage_of(run: RunDirectory, home: Home, reader: Reader = PLAIN) -> Lineage:
    """What is known of the run by now; a `ShardlineError` names a file that is damaged."""
    record = reader.record(run.merge_file)
    inputs = None if record is None else record["inputs"]
    shard_set = _shard_set(run, inputs, reader)
    code = reader.content(run.code_file)
    return {
        "format": FORMAT,
        "run": _run(run, home, reader),
        "data": _chosen(run.dataset_file, ("digest", "source", "directory"), reader),
        "start": _document(run.start_file, reader),
        "shard_set": shard_set and {name: shard_set[name] for name in ("step", "epoch", "world_size", "digest")},
        "strategies": _strategies(shard_set, inputs),
        "merged": None if record is None else _merged(record, run.merge_file),
        "code": [] if code is None else code_in(code, run.code_file),
    }


def digests_in(lineage: Lineage) -> dict[str, str]:
    """The digests of data set, shard set, strategy and merged file, by name; those that are known."""
    kept = {"dataset": "data", "shard_set": "shard_set", "merged": "merged"}
    found = {name: (lineage[key] or {}).get("digest") for name, key in kept.items()}
    found["strategy"] = " ".join(lineage["strategies"])
    return {name: str(digest) for name, digest in found.items() if digest}


def commits_in(lineage: Lineage) -> dict[str, str]:
    """The newest commits of Shardline and of the user's program, by name; `+changes` behind one that was changed."""
    newest = lineage["code"][-1] if lineage["code"] else {}
    found = {name: newest.get(name) or {} for name in ("shardline", "program")}
    return {
        name: f"{code['commit']}{'+changes' if code.get('changed') else ''}"
        for name, code in found.items()
        if code.get("commit")
    }


def lineage_in(content: bytes) -> Lineage:
    """What a version's `lineage.json` says; `ValueError`, `TypeError` or `KeyError` where it is none."""
    document: Lineage = json.loads(content)
    if document["format"] != FORMAT:
        raise ValueError(f"its format is {document['format']!r}, expected {FORMAT}")
    for name in ("run", "data", "start", "shard_set", "merged"):
        if not isinstance(document[name], dict | None):
            raise TypeError(f"expected {name} to be an object, found {document[name]!r:.100}")
    if not isinstance(document["code"], list) or not isinstance(document["strategies"], list):
        raise TypeError("expected code and strategies to be arrays")
    return document


def _run(run: RunDirectory, home: Home, reader: Reader) -> dict[str, Any]:
    path = run.path
    identity = _document(path / "run.json", reader) or {}
    return {
        "folder": str(path.relative_to(home.path)) if path.is_relative_to(home.path) else str(path),
        "dag_id": identity.get("dag_id"),
        "run_id": identity.get("run_id"),
    }


def _chosen(file: Path, names: tuple[str, ...], reader: Reader) -> dict[str, Any] | None:
    document = _document(file, reader)
    return None if document is None else {name: document.get(name) for name in names}


def _document(file: Path, reader: Reader) -> dict[str, Any] | None:
    """The object in a JSON file of the run; `None` where there is no such file."""
    content = reader.content(file)
    if content is None:
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    if not isinstance(document, dict):
        raise _damaged(file, type(document).__name__)
    return document


def _damaged(file: Path, reason: object) -> RunDirectoryError:
    return RunDirectoryError(f"{file}: expected a JSON object, found something else ({reason}); it is damaged")


def _shard_set(run: RunDirectory, inputs: Mapping[str, Any] | None, reader: Reader) -> dict[str, Any] | None:
    """The manifest that was merged by, with its digest; before the merge, the newest; `None` where there is none."""
    if inputs is None:
        step = next(reversed(ShardSet.steps(run.checkpoints)), None)
    else:
        step = int(inputs["step"]) if inputs.get("manifest") else None
    if step is None:
        return None
    manifest = ShardSet.path(run.checkpoints, step)
    content, document = reader.content(manifest), _document(manifest, reader)
    if content is None or document is None:
        return None  # it was freed
    return {**dict.fromkeys(("epoch", "world_size")), **document, "step": step, "digest": blake3(content).hexdigest()}


def _strategies(shard_set: Mapping[str, Any] | None, inputs: Mapping[str, Any] | None) -> list[str]:
    """Of the strategies that the slices were merged by; before the merge, of the one that they were saved with."""
    if inputs is not None:
        return list(map(str, inputs.get("strategies", ())))
    return [str(shard_set["strategy_digest"])] if shard_set and shard_set.get("strategy_digest") else []


def _merged(record: Mapping[str, Any], file: Path) -> dict[str, Any]:
    output = published_files(record, file)[0]
    return {"file": output.name, "digest": output.digest, "size": output.size}
