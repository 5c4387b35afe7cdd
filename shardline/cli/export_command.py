"""Export a version of a model as a folder that Hugging Face's transformers loads.

shardline export MODEL [VERSION] OUTPUT [--mapping FILE]

VERSION is a number; without it, the current one is exported. Networks of the recipe gpt need no mapping file. Their
logits are compared with those of the sharded ranks where SHARDLINE_HF_PYTHON names a Python that has transformers and
torch, or this one has them; without, and for every other network, the export is proved by its bytes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError, PromotionError
from shardline.base.progress import Meter, ReportingMeter
from shardline.base.termination import clean_up_when_terminated
from shardline.cli.options import size
from shardline.export.export import FILE_SIZE, ExportRequest, export
from shardline.export.mapping_file import read_mapping
from shardline.run import command_line
from shardline.run.directory import Home
from shardline.run.environment import home_from
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import ModelStore
from shardline.store.version import Version


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="its name in the model store")
    parser.add_argument("version", metavar="VERSION", type=int, nargs="?", help="default: the current one")
    parser.add_argument("output", metavar="OUTPUT", help="a folder that is not there yet")
    parser.add_argument("--mapping", type=Path, metavar="FILE", help="names, as TOML or JSON: docs/hugging-face.md")
    parser.add_argument(
        "--max-file-size", type=size, default=FILE_SIZE, metavar="SIZE", help="of each file of weights: 5GB"
    )
    parser.add_argument("--must-compare", action="store_true", help="refuse where the logits cannot be compared")
    parser.add_argument("--json", action="store_true", help="print the record alone")
    return parser


def _run(given: argparse.Namespace) -> Mapping[str, Any]:
    if given.version is None and given.output.isdecimal():
        raise ConfigError(
            f"{given.output}: a version, or where to? Give both, shardline export {given.model} {given.output} OUTPUT; "
            f"or ./{given.output}, if that is the folder"
        )
    home = home_from(os.environ)
    request = ExportRequest(
        model=given.model,
        version=_version(home, given.model, given.version),
        output=Path(given.output).resolve(),
        mapping=None if given.mapping is None else read_mapping(given.mapping),
        max_file_size=given.max_file_size,
        must_compare=given.must_compare,
    )
    meter = Meter() if given.json else ReportingMeter(sys.stderr)
    with meter.running() if isinstance(meter, ReportingMeter) else nullcontext():
        record = export(request, home, os.environ, meter)
    if not given.json:
        print(record["proof"]["said"], file=sys.stderr)
        return {"output": given.output, "files": len(record["files"]), "proof": record["proof"]["said"]}
    return {"output": given.output, **record}


def _version(home: Home, model: str, number: int | None) -> Version:
    """`PromotionError` where the model has no such version."""
    name = RunConfig.from_json(json.dumps({"model_name": model})).model_name
    store = ModelStore(home, name)
    if number is None:
        current = store.current()
        if current is None:
            raise PromotionError(f"{store.path}: expected a current version of {name}, found none; promote one first")
        return current
    known = {version.version: version for version in store.versions()}
    if number not in known:
        raise PromotionError(f"{store.path}: no version {number}; there are {', '.join(map(str, known)) or 'none'}")
    return known[number]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        given = _parser().parse_intermixed_args(arguments)
        return command_line.main(lambda: _run(given))
