"""What of a run MLflow has been sent: `mlflow.json` in the run directory.

A batch of metrics is written down, with its time, before it is sent. Where nobody knows whether it arrived, it is sent
again with the same time: MLflow keeps one of two equal values.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from shardline.base import atomic


@dataclass
class Sent:
    """What was sent to the server `uri`; of another server, nothing was."""

    uri: str
    experiment_id: str = ""
    run_id: str = ""
    artifact_uri: str = ""
    status: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    """BLAKE3 by name."""
    last_step: int = 0
    last_epoch: int = 0
    inode: int = -1
    offset: int = 0
    """Up to where `metrics.jsonl`, the file of this inode, was sent."""
    batch_end: int = 0
    batch_time: int = 0
    """The batch that was about to be sent: where it ends, and its milliseconds since 1970; 0: there is none."""
    measured: dict[str, float] = field(default_factory=dict)
    version: str = ""
    """MLflow's number of the registered version; `version_digest` is its model's."""
    version_digest: str = ""


def read_sent(file: Path, uri: str) -> Sent:
    """What `file` says; nothing was sent where it is not there, is damaged, or is of another server."""
    try:
        document: dict[str, Any] = json.loads(file.read_bytes())
        known = {each.name: type(each.default) for each in fields(Sent)}
        sent = Sent(**document)
        well_formed = all(
            isinstance(value, int if known[name] is int else str if name in _TEXTS else dict)
            for name, value in asdict(sent).items()
        )
    except (OSError, ValueError, TypeError, RecursionError):
        return Sent(uri)
    return sent if well_formed and sent.uri == uri else Sent(uri)


_TEXTS = ("uri", "experiment_id", "run_id", "artifact_uri", "status", "version", "version_digest")


def write_sent(file: Path, sent: Sent) -> None:
    """Leave `sent` in `file`, as a whole."""
    atomic.write_text(file, json.dumps(asdict(sent), indent=1) + "\n")
