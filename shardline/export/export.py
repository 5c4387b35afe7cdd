"""A version of the model store as a folder that Hugging Face's `transformers` loads.

    OUTPUT/config.json
    OUTPUT/model.safetensors, or model-00001-of-00003.safetensors … and model.safetensors.index.json
    OUTPUT/export.json       the record: of which version, by which mapping, with which digests, and what was proved

The weights are moved piece by piece, so that memory doesn't grow with the model, and every element is read again and
compared with the version's. Networks of the recipe `gpt` have a mapping that comes with Shardline, and their logits are
compared too, where something can compute them (`shardline.export.logits`): else, as for every other mapping, the export
is proved by bytes alone, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError, ExportError, OutputError
from shardline.base.json_object import encode_object
from shardline.base.progress import Meter
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.output_file import OutputFile, index_document, index_path, layout_output
from shardline.checkpoint.formats.tensor_types import CASTS
from shardline.checkpoint.merging.merge import make_folder
from shardline.checkpoint.merging.output_lock import exclusive
from shardline.checkpoint.merging.staged_folder import publish_folder, staged_folder
from shardline.export.gpt2 import gpt2_mapping
from shardline.export.logits import ComparedLogits, NotCompared, compare_logits, interpreter, reference_of
from shardline.export.mapping import NameMapping
from shardline.export.targets import Target, Targets, targets_of
from shardline.export.writing import prove_file, write_file
from shardline.run.directory import Home
from shardline.settings.run_config import RunConfig
from shardline.store.version import Version

WEIGHTS = "model.safetensors"
RECORD = "export.json"
FILE_SIZE = 5_000_000_000
"""Bytes of weights that a file holds at most, as the hub wants it."""
METADATA = {"format": "pt"}
"""What `transformers` asks of the files."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export, as what, and to where. Without a `mapping`, it is the one that comes with Shardline.

    `replaces` is for an output of the caller's own, which may be there already. With `must_compare`, an export whose
    logits cannot be compared is refused.
    """

    model: str
    version: Version
    output: Path
    mapping: NameMapping | None = None
    max_file_size: int = FILE_SIZE
    must_compare: bool = False
    replaces: bool = False


def export(request: ExportRequest, home: Home, environment: Mapping[str, str], meter: Meter) -> dict[str, Any]:
    """Write the folder, prove it and let it appear; its record is returned.

    `ConfigError` where the mapping and the version don't go together, `ExportError` where the folder isn't what the
    version is, `OutputError` where it cannot be written, or is there.
    """
    version = request.version
    if not request.output.name:
        raise ConfigError(f"{request.output} is no folder that can be made; choose another")
    source = read_checkpoint(version.model_file)
    headers = source.index.schema.headers
    mapping = request.mapping or built_in_mapping(version, headers)
    targets = targets_of(mapping, headers)
    layouts = _layouts(targets.tensors, request.max_file_size)
    make_folder(request.output.parent)
    with exclusive(request.output), staged_folder(request.output, request.replaces) as folder:
        version.verify()
        _begin(meter, "exporting", targets)
        for layout in layouts:
            write_file(layout, folder, targets.tensors, source, meter)
        _begin(meter, "proving", targets)
        for layout in layouts:
            prove_file(folder / layout.name, targets.tensors, source, meter)
        _write_documents(folder, layouts, mapping)
        logits = _logits(request, folder, home, environment)
        record = _record(request, mapping, targets, folder, logits)
        _write(folder / RECORD, encode_object(record))
        if not request.replaces and request.output.exists() and any(request.output.iterdir()):
            raise OutputError(f"{request.output} appeared meanwhile; choose a new folder, or remove it first")
        publish_folder(folder, request.output)
    return record


def built_in_mapping(version: Version, headers: Sequence[TensorHeader]) -> NameMapping:
    """The mapping for a version of the recipe `gpt`; `ConfigError` for any other."""
    config_file = version.path / "config.json"
    try:
        document = json.loads(config_file.read_bytes())
        network = document.get("network", "mlp") if "training" not in document else None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ExportError(f"{config_file}: expected the parameters of a run ({error!r}); restore it") from None
    if network != "gpt":
        what = f"of the network {network}" if network else "of a training of your own"
        raise ConfigError(
            f"version {version.version} is {what}, which no mapping comes with (there is one for gpt); give a mapping "
            "file: --mapping FILE, or the parameter hugging_face_export"
        )
    types = {header.type.name for header in headers if header.name == "head.weight"}
    dtypes = [name for name, tensor_type in CASTS.items() if tensor_type.name in types]
    return gpt2_mapping(RunConfig.from_json(config_file.read_bytes()), dtypes[0] if dtypes else "float32")


def _begin(meter: Meter, phase: str, targets: Targets) -> None:
    meter.begin(phase, sum(target.header.size for target in targets.tensors), len(targets.tensors))


def _layouts(targets: Sequence[Target], limit: int) -> Sequence[OutputFile]:
    """One file where the weights fit into one, else several."""
    headers = [target.header for target in targets]
    for header in headers:
        if header.type.code is None:
            raise ConfigError(
                f"{header.name!r} has the type {header.type.name}, which .safetensors cannot hold; add it to leave_out"
            )
    several = layout_output(WEIGHTS, headers, "safetensors", limit, metadata=METADATA)
    return several if len(several) > 1 else layout_output(WEIGHTS, headers, "safetensors", metadata=METADATA)


def _write_documents(folder: Path, layouts: Sequence[OutputFile], mapping: NameMapping) -> None:
    if len(layouts) > 1:
        _write(index_path(folder / WEIGHTS), index_document({layout.name: layout for layout in layouts}))
    if mapping.config:
        _write(folder / "config.json", (json.dumps(mapping.config, indent=2, allow_nan=False) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    atomic.flush(path)


def _logits(
    request: ExportRequest, folder: Path, home: Home, environment: Mapping[str, str]
) -> ComparedLogits | NotCompared:
    try:
        if request.mapping is not None:
            raise NotCompared("what the architecture of a mapping file computes is not known here")
        return compare_logits(folder, request.version, reference_of(request.version, home), interpreter(environment))
    except NotCompared as reason:
        if request.must_compare:
            raise ExportError(f"the logits cannot be compared: {reason}. Nothing was exported") from None
        return reason


def _record(
    request: ExportRequest,
    mapping: NameMapping,
    targets: Targets,
    folder: Path,
    logits: ComparedLogits | NotCompared,
) -> dict[str, Any]:
    """Without times or folders: the same version by the same mapping gives the same record."""
    version = request.version
    is_compared = isinstance(logits, ComparedLogits)
    return {
        "source": {
            "model": request.model,
            "version": version.version,
            "run": version.run,
            "step": version.step,
            "file": version.model,
            "digest": version.digest,
        },
        "mapping": {"name": Path(mapping.name).name, "digest": mapping.digest},
        "tensors": len(targets.tensors),
        "bytes": sum(target.header.size for target in targets.tensors),
        "left_out": list(targets.left_out),
        "files": {path.name: file_digest(path) for path in sorted(folder.iterdir())},
        "proof": {
            "bytes": "every element was read again, and is the version's",
            "logits": logits.to_document() if isinstance(logits, ComparedLogits) else None,
            "said": str(logits) if is_compared else f"proved by bytes alone: {logits}",
        },
    }
