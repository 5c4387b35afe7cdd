"""What was exported of a version for Hugging Face, as a page shows it: the record that lies in the export's folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shardline.base.errors import RunDirectoryError
from shardline.page.containment import Contained
from shardline.store.version import Version

_PROVED = ("samples", "relative_difference", "tolerance")
_ERRORS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def read_export(files: Contained, folder: Path, version: Version) -> dict[str, Any] | None:
    """The mapping and what was proved of the export of `version` in `folder`; `None` where there is none.

    A record that cannot be read, or is of other bytes than the version's, comes as `problem` beside the folder, so that
    it stands in the way of nothing else.
    """
    try:
        record = files.document(folder / "export.json")
    except RunDirectoryError as error:
        return _problem(folder, str(error))
    if record is None:
        return None
    try:
        shown = _shown(record)
        exported = str(record["source"]["digest"])
    except _ERRORS as error:
        return _problem(folder, f"{folder / 'export.json'}: expected the record of an export ({error!r})")
    if exported != version.digest:
        return _problem(folder, f"{folder}: expected the export of {version.digest}, found that of {exported}")
    return {"folder": str(folder), "problem": None} | shown


def _problem(folder: Path, said: str) -> dict[str, Any]:
    return {"folder": str(folder), "problem": f"{said}; clear export, or export again"}


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    """The record's parts that a page shows, each of the type that it must have."""
    mapping, proof = record["mapping"], record["proof"]
    return {
        "mapping": str(mapping["name"]),
        "mapping_digest": str(mapping["digest"]),
        "files": len(record["files"].keys()),
        "tensors": int(record["tensors"]),
        "bytes": int(record["bytes"]),
        "left_out": [str(name) for name in record["left_out"]],
        "compared_bytes": str(proof["bytes"]),
        "logits": _logits(proof["logits"]),
        "said": str(proof["said"]),
    }


def _logits(found: dict[str, Any] | None) -> dict[str, float] | None:
    """How many samples' logits were compared, how far they lie apart, and how far they may; `None` for bytes alone."""
    if found is None:
        return None
    logits = {name: float(found[name]) for name in _PROVED}
    if not all(math.isfinite(value) for value in logits.values()):
        raise ValueError(f"logits that are no numbers: {logits}")
    return logits
