"""Which data and which code made a version: what its own files say, whatever has become of its run since."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from shardline.base.errors import PromotionError
from shardline.checkpoint.merging.record_file import UNNAMED
from shardline.run.lineage import FORMAT, LINEAGE, lineage_in
from shardline.store.version import Version

CONFIG, REPORT = "config.json", "report.json"


def origin_of(version: Version) -> dict[str, Any]:
    """The version's `lineage`, the `parameters` of its run, and the `metrics` of its validation.

    `PromotionError` where one of its files is not the one that was promoted. Of what an earlier Shardline promoted
    without a `lineage.json`, the record of the merge tells a part.
    """
    report = _document(version, REPORT)
    return {
        "lineage": _lineage(version),
        "parameters": _document(version, CONFIG),
        "metrics": {name: value for name, value in report.items() if _is_number(value)},
    }


def _lineage(version: Version) -> dict[str, Any]:
    if LINEAGE in version.files:
        try:
            return lineage_in(_content(version, LINEAGE))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PromotionError(
                f"{version.path / LINEAGE}: expected from what version {version.version} was made "
                f"({error!r}); it was promoted by another Shardline: use that one"
            ) from error
    inputs = _document(version, UNNAMED).get("inputs", {})
    return {
        "format": FORMAT,
        "run": {"folder": version.run, "dag_id": None, "run_id": None},
        "data": None,
        "start": None,
        "shard_set": None if version.step is None else {"step": version.step},
        "strategies": list(inputs.get("strategies", ())),
        "merged": {"file": version.model, "digest": version.digest},
        "code": [],
    }


def _document(version: Version, name: str) -> Mapping[str, Any]:
    """The JSON object in one of the version's files; empty where it has none of that name."""
    if name not in version.files:
        return {}
    document = json.loads(_content(version, name))
    return document if isinstance(document, dict) else {}


def _content(version: Version, name: str) -> bytes:
    try:
        content = (version.path / name).read_bytes()
    except OSError as error:
        raise PromotionError(f"{version.path / name}: cannot be read: {error.strerror}; restore it") from error
    if (found := blake3(content).hexdigest()) != version.files[name]:
        raise PromotionError(
            f"{version.path / name}: expected the digest {version.files[name]} of version {version.version}, found "
            f"{found}: it was changed after its promotion; restore it"
        )
    return content


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
