"""Which data and which code made a version, in words: what `shardline models show` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_NOT_RECORDED = "not recorded"


def report(shown: Mapping[str, Any]) -> str:
    """The text of what `models_command` gives as JSON."""
    lineage = shown["lineage"]
    sections = {
        f"{shown['model']}, version {shown['version']}{', which is current' if shown['is_current'] else ''}": {
            "digest": shown["digest"],
            "file": shown["file"],
            **{name: f"{value:g}" for name, value in shown["metrics"].items()},
        },
        "Made from": _made_from(lineage),
        "By the code": dict(_codes(lineage["code"])) or {"code": _NOT_RECORDED},
        "With the parameters": _parameters(shown["parameters"]),
    }
    width = max(len(name) for rows in sections.values() for name in rows)
    return "\n\n".join(
        "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows.items())])
        for title, rows in sections.items()
    )


def _made_from(lineage: Mapping[str, Any]) -> dict[str, str]:
    run, data, start, shard_set, merged = (lineage[name] for name in ("run", "data", "start", "shard_set", "merged"))
    return {
        "run": " ".join(filter(None, (run["dag_id"], run["run_id"]))) or run["folder"],
        "run directory": run["folder"],
        "data": _NOT_RECORDED if data is None else f"{data['digest']}  {data['source']}, {data['directory']}",
        **({} if start is None else {"began with": _pairs(start)}),
        "shard set": _NOT_RECORDED if shard_set is None else _shard_set(shard_set),
        "strategy": "  ".join(lineage["strategies"]) or "none",
        "merged file": _NOT_RECORDED if merged is None else f"{merged['digest']}  {merged['file']}",
    }


def _shard_set(found: Mapping[str, Any]) -> str:
    rest = _pairs({name: value for name, value in found.items() if name != "digest"})
    return f"{found.get('digest', 'digest ' + _NOT_RECORDED)}  {rest}"


def _codes(codes: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Both names for each code, the newest last."""
    for number, code in enumerate(codes, start=1):
        suffix = f" ({number} of {len(codes)})" if len(codes) > 1 else ""
        yield f"shardline{suffix}", f"{code['shardline'].get('version')}, {_commit(code['shardline'])}"
        if program := code["program"]:
            yield f"program{suffix}", f"{program.get('folder')}, {_commit(program)}"


def _commit(code: Mapping[str, Any]) -> str:
    if not code.get("commit"):
        return "in no git checkout"
    if code.get("changed") is None:
        return f"commit {code['commit']}, whether with changes is unknown"
    return f"commit {code['commit']}, {'with' if code['changed'] else 'without'} changes"


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Those that somebody chose, or could have; of a described training, its own and the pipeline's."""
    chosen = {name: value for name, value in config.items() if name not in ("training", "values")}
    chosen |= config.get("values") or {}
    shown = {name: value for name, value in sorted(chosen.items()) if value is not None}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in shown.items()}


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
