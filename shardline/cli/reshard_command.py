"""Cut a model anew: slices for another strategy and number of cards, from slices or from an integrated checkpoint.

    shardline reshard --shards DIR --strategy FILE [FILE…] --to-strategy FILE [FILE…] --output DIR
    shardline reshard --from FILE|DIR --to-strategy FILE [FILE…] --output DIR

The new folder holds rank_0, rank_1, …, proved against the source, and `reshard.json`; it appears whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError
from shardline.base.progress import Meter, ReportingMeter
from shardline.base.termination import clean_up_when_terminated
from shardline.base.workers import default_workers
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.cli.options import add_selection_options, add_source_options, selection_from
from shardline.run import command_line


def _parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source_options(arguments)
    arguments.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="an integrated checkpoint, or its index or folder"
    )
    arguments.add_argument("--to-strategy", type=Path, nargs="+", required=True, metavar="FILE", help="one a stage")
    arguments.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    arguments.add_argument("--name", help="the name of every rank's file, without suffix; default: the source's")
    arguments.add_argument("--format", choices=("ckpt", "safetensors"), default="ckpt")
    add_selection_options(arguments)
    arguments.add_argument("--allow-non-finite", action="store_true", help="accept NaN and infinities")
    return arguments


def _run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if arguments.integrated:
        raise ConfigError("--integrated: every rank's file is the whole model; give one of them as --from FILE")
    request = ReshardRequest(
        to_strategies=tuple(arguments.to_strategy),
        output=arguments.output,
        shards=arguments.shards,
        strategies=tuple(arguments.strategy),
        integrated=arguments.source,
        step=arguments.step,
        prefix=arguments.prefix,
        name=arguments.name,
        file_format=arguments.format,
        selection=selection_from(arguments),
        allow_non_finite=arguments.allow_non_finite,
        workers=arguments.workers or default_workers(),
    )
    meter = Meter() if arguments.json else ReportingMeter(sys.stderr)
    with meter.running() if isinstance(meter, ReportingMeter) else nullcontext():
        resharded = reshard(request, meter)
    for notice in resharded.notices:
        print(f"note: {notice}", file=sys.stderr)
    return {"output": str(resharded.output), "ranks": resharded.world_size, "digests": list(resharded.digests)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        parsed = _parser().parse_args(arguments)
        return command_line.main(lambda: _run(parsed))
