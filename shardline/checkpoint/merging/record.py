"""A merge's record: what was merged into what, and what was proved. The same merge gives the same bytes."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from blake3 import __version__ as blake3_version
from blake3 import blake3

from shardline.checkpoint.formats.output_file import OutputFile, index_document, index_path
from shardline.checkpoint.merging.proof import Proven
from shardline.checkpoint.merging.rank_identity import indistinguishable_ranks
from shardline.checkpoint.merging.record_file import RECORD_FORMAT
from shardline.checkpoint.merging.request import Prepared
from shardline.checkpoint.shards.plan import PlannedTensor


def build_record(
    prepared: Prepared, inputs: Mapping[str, Any], output_digests: Sequence[str], proven: Mapping[str, Proven]
) -> dict[str, Any]:
    """The document; every value in it follows from the inputs and the options, versions excepted."""
    names = published_names(prepared, output_digests)
    output = [
        {"name": name, "size": file.size, "digest": digest}
        for name, file, digest in zip(names, prepared.files, output_digests, strict=True)
    ]
    if prepared.request.max_file_size is not None:
        content = index_document(dict(zip(names, prepared.files, strict=True)))
        index = {"name": index_path(prepared.request.output).name, "size": len(content)}
        output.insert(0, {**index, "digest": blake3(content).hexdigest()})
    places = {tensor: (name, file) for name, file in zip(names, prepared.files, strict=True) for tensor in file.extents}
    return {
        "format": RECORD_FORMAT,
        "output": output,
        "inputs": dict(inputs),
        "options": prepared.options(),
        "tensors": [_tensor(tensor, *places[tensor.merged.name], proven) for tensor in prepared.plan.tensors],
        "proof": _proof(proven) if proven else None,
        "swaps_undetectable_among_ranks": indistinguishable_ranks(prepared.plan),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "blake3": blake3_version},
    }


def published_names(prepared: Prepared, output_digests: Sequence[str]) -> list[str]:
    """Under which names the files are published.

    Several files carry a tag of their content, so that a new set never overwrites a part of the old one, which the
    old index still names until the new index replaces it.
    """
    if prepared.request.max_file_size is None:
        return [file.name for file in prepared.files]
    tag = blake3("".join(output_digests).encode()).hexdigest()[:8]
    stem = prepared.request.output.name.removesuffix(".safetensors")
    return [f"{stem}-{tag}-{file.name.removeprefix(f'{stem}-')}" for file in prepared.files]


def _tensor(tensor: PlannedTensor, name: str, file: OutputFile, proven: Mapping[str, Proven]) -> dict[str, Any]:
    merged = tensor.merged
    entry: dict[str, Any] = {
        "name": merged.name,
        "type": merged.type.name,
        "shape": list(merged.numbers),
        "file": name,
        "extents": [list(extent) for extent in file.extents[merged.name]],
        "layouts": [str(copy.layout) for copy in tensor.copies] if tensor.is_known else "whole on every rank",
    }
    if tensor.header.name != merged.name:
        entry["source_name"] = tensor.header.name
    if tensor.header.type != tensor.target:
        entry["source_type"] = tensor.header.type.name
    if merged.name in proven:
        entry["digest"] = proven[merged.name].digest
        entry["slices_compared"] = proven[merged.name].slices
    return entry


def _proof(proven: Mapping[str, Proven]) -> dict[str, Any]:
    return {
        "tensors": len(proven),
        "slices_compared": sum(one.slices for one in proven.values()),
        "bytes_compared": sum(one.bytes_compared for one in proven.values()),
    }
