"""The documents by which the parts of a merge meet: `plan.json`, and `part-I-of-N.json` for every part that is done.

They lie on a folder that several machines share and nobody vouches for: whatever is wrong with one is `CorruptShard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from shardline.base import atomic
from shardline.base.errors import CorruptShard, MissingShard, OutputError
from shardline.base.json_object import encode_object, read_object
from shardline.base.remedies import remedy
from shardline.checkpoint.merging.proof import Proven

PLAN = "plan.json"
_SEAL = "seal"
_PARTS = "part-*-of-*.json"


@dataclass(frozen=True)
class PartDocument:
    """What one part found: of which plan, the digests of the inputs that it read, and of the tensors that it proved."""

    path: Path
    plan: str
    inputs: Mapping[int, str]
    proven: Mapping[str, Proven]


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document of a plan or a part, as a whole or not at all."""
    try:
        atomic.write_bytes(path, encode_object(document))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; {remedy(error)}, then try again") from error


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the `plan` into `folder`, sealed with its own digest: its request is obeyed by whoever reads it."""
    write_document(folder / PLAN, {**plan, _SEAL: _seal(plan)})


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan in `folder`: the `request` and the `digest`; `MissingShard` where there is none."""
    path = folder / PLAN
    if not path.exists():
        raise MissingShard(
            f"{path}: there is no such plan; run the plan step first (a commit that published uses it up)"
        )
    document = read_object(path, "plan of a merge in parts")
    seal = document.pop(_SEAL, None)
    if not isinstance(document.get("request"), dict) or not isinstance(document.get("digest"), str):
        raise no_plan(path, "expected the object 'request' and the text 'digest'")
    if seal != _seal(document):
        raise no_plan(path, "it was changed after it was written, or an earlier Shardline wrote it")
    return document


def _seal(plan: Mapping[str, Any]) -> str:
    return blake3(encode_object(plan)).hexdigest()


def no_plan(path: Path, reason: object) -> CorruptShard:
    """The error of a plan that is none."""
    return CorruptShard(f"{path}: this is no plan of a merge in parts: {reason}; plan again")


def part_document(plan: str, inputs: Mapping[int, str], proven: Mapping[str, Proven]) -> dict[str, Any]:
    """The document of a part that is done."""
    return {
        "plan": plan,
        "inputs": {str(rank): found for rank, found in sorted(inputs.items())},
        "proven": {name: asdict(found) for name, found in sorted(proven.items())},
    }


def read_parts(folder: Path) -> list[PartDocument]:
    """What every part that is done left in `folder`, of this plan or another."""
    return [_read_part(path) for path in sorted(folder.glob(_PARTS))]


def _read_part(path: Path) -> PartDocument:
    try:
        document = read_object(path, "part of a merge")
        inputs = {int(rank): _text(digest) for rank, digest in document["inputs"].items()}
        proven = {name: _proven(found) for name, found in document["proven"].items()}
        return PartDocument(path, _text(document["plan"]), inputs, proven)
    except (KeyError, TypeError, ValueError, AttributeError, MissingShard, CorruptShard) as error:
        raise CorruptShard(
            f"{path}: this is not what a part leaves ({error!r}); remove it, write that part again, then commit"
        ) from error


def _proven(found: Mapping[str, Any]) -> Proven:
    proven = Proven(**found)
    _text(proven.digest)
    if type(proven.slices) is not int or type(proven.bytes_compared) is not int:
        raise TypeError(f"expected numbers of slices and bytes, found {found!r}")
    return proven


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r}")
    return value
