"""Cut a model anew: slices for another strategy and number of cards, from slices or from an integrated checkpoint.

    shardline reshard --shards DIR --strategy FILE [FILE…] --to-strategy FILE [FILE…] --output DIR
    shardline reshard --from FILE|DIR --to-strategy FILE [FILE…] --output DIR
    shardline reshard --shards CHECKPOINT2 --to-strategy FILE [FILE…] --output DIR
    shardline reshard … --format checkpoint2 --output DIR

The new folder holds rank_0, rank_1, … (or an iteration of MindFormers' Checkpoint 2.0), proved against the source, and
`reshard.json`; it appears whole or not at all.
"""

from __future__ import annotations

import argparse
import re
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
from shardline.checkpoint.shards.finding import what_was_taken
from shardline.cli.options import add_selection_options, add_source_options, positive, selection_from
from shardline.run import command_line

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_MOST_RANKS = 1 << 20


def _parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source_options(arguments)
    arguments.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="an integrated checkpoint, or its index or folder"
    )
    arguments.add_argument("--to-strategy", type=Path, nargs="+", default=[], metavar="FILE", help="one a stage")
    arguments.add_argument("--unsharded", action="store_true", help="to one rank, which holds everything whole")
    arguments.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    arguments.add_argument(
        "--name",
        help="the name of every rank's file, without suffix; default: the source's; of Checkpoint 2.0 a prefix",
    )
    arguments.add_argument("--format", choices=("ckpt", "safetensors", "checkpoint2"), default="ckpt")
    arguments.add_argument(
        "--ranks", type=rank_list, metavar="LIST", help="write only these ranks' folders, as for one host: 0-7,16"
    )
    arguments.add_argument(
        "--iteration", type=positive, metavar="N", help="of Checkpoint 2.0, where the source doesn't say it"
    )
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
        unsharded=arguments.unsharded,
        ranks=arguments.ranks,
        iteration=arguments.iteration,
    )
    meter = Meter() if arguments.json else ReportingMeter(sys.stderr)
    with meter.running() if isinstance(meter, ReportingMeter) else nullcontext():
        resharded = reshard(request, meter)
    if not arguments.json:
        print(what_was_taken(resharded.sources), file=sys.stderr)
        for notice in resharded.notices:
            print(f"note: {notice}", file=sys.stderr)
    result = {"output": str(resharded.output), "ranks": resharded.world_size, "digests": list(resharded.digests)}
    return {**result, "notices": list(resharded.notices)} if arguments.json else result


def rank_list(text: str) -> tuple[int, ...]:
    """Ranks, and ranges of them, both ends included: 0-7,16."""
    ranks: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= _MOST_RANKS:
            raise argparse.ArgumentTypeError(f"expected ranks such as 0-7,16, found {text!r:.80}")
        ranks.update(range(first, last + 1))
    return tuple(sorted(ranks))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        parsed = _parser().parse_args(arguments)
        return command_line.main(lambda: _run(parsed))
