"""Write the manifests of slices that a program of anybody's saved: from then on they are a complete shard set.

    shardline adopt DIR --strategy FILE [FILE…]     rank_N folders, as MindSpore and MindFormers 1.x save them
    shardline adopt DIR                             Checkpoint 2.0, whose metadata.json says how it is cut
    shardline adopt DIR --integrated                every rank saved the whole model

Every complete save in DIR is adopted, or that of --step or --prefix. Its files are digested; `shard_set-STEP.json` and
`provenance/` are written beside them, and nothing of the program's is changed. A merge, and whatever else reads slices,
refuses files by name that are changed later.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError, MissingShard
from shardline.base.termination import clean_up_when_terminated
from shardline.checkpoint.shards.adopter import Adopter
from shardline.checkpoint.shards.adoption import Cut
from shardline.checkpoint.shards.checkpoint2 import is_checkpoint2
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.shards.trainings import Wanted
from shardline.cli.options import positive
from shardline.run import command_line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, metavar="DIR", help="the folder that holds rank_0, rank_1, …")
    parser.add_argument("--strategy", type=Path, nargs="+", default=[], metavar="FILE", help="files, or their folder")
    parser.add_argument("--integrated", action="store_true", help="every rank saved the whole model")
    parser.add_argument("--step", help="only that of EPOCH_STEP or STEP, as in the files' names")
    parser.add_argument("--prefix", metavar="GLOB", help="of several trainings' files, those of this prefix or name")
    parser.add_argument("--steps-per-epoch", type=positive, metavar="N", help="where no file has a counter of steps")
    parser.add_argument(
        "--settled-after", type=positive, metavar="SECONDS", help="adopt what doesn't change for so long; default: now"
    )
    parser.add_argument("--json", action="store_true", help="print the result alone")
    return parser


def _run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if not arguments.shards.is_dir():
        raise MissingShard(f"{arguments.shards}: there is no such folder; expected one that holds rank_0, rank_1, …")
    cut = _cut(arguments)
    adopter = Adopter(
        arguments.shards,
        lambda: cut,
        (lambda _: None) if arguments.json else lambda message: print(message, file=sys.stderr),
        arguments.settled_after or 0.0,
        arguments.steps_per_epoch,
        Wanted(arguments.step, arguments.prefix),
    )
    adopted = adopter.look(time.monotonic())
    if arguments.settled_after:
        time.sleep(arguments.settled_after)
        adopted = adopter.look(time.monotonic())
    steps = ShardSet.steps(arguments.shards)
    if adopter.refused or not steps:
        raise adopter.nothing_adopted()
    return {
        "adopted": [found.shard_set.step for found in adopted],
        "manifests": [str(found.manifest) for found in adopted],
        "steps": steps,
    }


def _cut(arguments: argparse.Namespace) -> Cut:
    given = "--strategy" if arguments.strategy else "--integrated" if arguments.integrated else None
    if is_checkpoint2(arguments.shards):
        if given:
            raise ConfigError(
                f"{arguments.shards} is Checkpoint 2.0 of MindFormers, whose metadata.json says how it is sharded; "
                f"leave {given} out"
            )
    elif given is None:
        raise ConfigError(
            "which strategy? Give --strategy FILE, or --integrated where every rank saved the whole model"
        )
    if arguments.integrated and arguments.strategy:
        raise ConfigError("--strategy and --integrated: slices are cut, or whole; leave one of them out")
    return Cut.of(arguments.strategy)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        parsed = _parser().parse_args(arguments)
        return command_line.main(lambda: _run(parsed))
