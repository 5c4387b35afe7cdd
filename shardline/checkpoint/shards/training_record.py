"""Which parameters the network has, where the training that saved a shard set recorded it.

Training leaves `provenance/configuration-DIGEST` beside its shard sets, and their manifests name the digest: of the
document's JSON with sorted keys. Its `shapes` are those of the network's own parameters, whole, and of nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from shardline.base.errors import CorruptShard
from shardline.checkpoint.shards.finding import SliceSet


def recorded_parameters(slices: SliceSet) -> frozenset[str] | None:
    """The names of the network's own parameters; `None` where no record lies beside the set.

    Raises `CorruptShard` where it isn't the record that the set's manifest names.
    """
    shard_set = slices.shard_set
    if shard_set is None or not shard_set.configuration_digest:
        return None
    path = slices.directory / "provenance" / f"configuration-{shard_set.configuration_digest}"
    if not path.is_file():
        return None
    shapes = _shapes(path, shard_set.configuration_digest)
    return None if shapes is None else frozenset(shapes)


def _shapes(path: Path, digest: str) -> Mapping[str, object] | None:
    try:
        document = json.loads(path.read_bytes())
        found = blake3(json.dumps(document, sort_keys=True).encode()).hexdigest()
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptShard(f"{path}: expected the record of a training: {error}; restore it, or remove it") from error
    if found != digest:
        raise CorruptShard(
            f"{path}: expected the digest that its name says, found {found[:16]}…; restore the file, or remove it"
        )
    shapes = document.get("shapes") if isinstance(document, dict) else None
    return shapes if isinstance(shapes, dict) else None
