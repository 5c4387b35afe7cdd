"""Merge in parts, on several machines that share a folder.

    shardline merge-parts plan --shards DIR --strategy FILE [FILE…] --output FILE [options of shardline merge]
    shardline merge-parts write --output FILE --part I/N       any order, any host, again after a failure
    shardline merge-parts commit --output FILE                 when all parts are written

Without `--shards` and `--output`, the merge is that of a run of the pipeline, `--run-directory` or the environment's;
the part is the environment's SHARDLINE_PART then. The result is the same, byte for byte, as that of
`shardline merge`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError
from shardline.base.progress import Meter, ReportingMeter
from shardline.base.termination import clean_up_when_terminated
from shardline.checkpoint.merging.merge import Merged
from shardline.checkpoint.merging.parts import Part, commit_parts, plan_parts, write_part
from shardline.cli.options import add_merge_options, positive, request_from
from shardline.run import command_line
from shardline.run.environment import run_directory_from
from shardline.run.parts_of_run import commit_run, plan_run, write_part_of_run

PART = "SHARDLINE_PART"


def _parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = arguments.add_subparsers(dest="command", required=True)
    plan = steps.add_parser("plan", help="reserve the output and write the plan")
    add_merge_options(plan)
    plan.add_argument("--parts", type=positive, default=1, metavar="N", help="of a run: how many")
    for name, purpose in (("write", "write and prove one part"), ("commit", "publish what all parts wrote")):
        step = steps.add_parser(name, help=purpose)
        step.add_argument("--output", type=Path, metavar="FILE", help="as it was planned")
        step.add_argument("--workers", type=int, help="threads")
        if name == "write":
            step.add_argument("--part", metavar="I/N", default=os.environ.get(PART))
    for step in steps.choices.values():
        step.add_argument("--run-directory", type=Path, metavar="DIR", help="the run's folder")
    return arguments


def _part(text: str | None) -> Part:
    match = re.fullmatch(r"(\d+)/(\d+)", text or "")
    if match is None:
        raise ConfigError(f"--part: expected a part such as 1/4, found {text!r}")
    return Part(int(match[1]), int(match[2]))


def _run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    by_hand = arguments.output is not None or getattr(arguments, "shards", None) is not None
    if by_hand and arguments.run_directory is not None:
        raise ConfigError("--run-directory: a run knows its folders; leave it or --shards and --output out")
    step: Callable[[argparse.Namespace, Meter], Mapping[str, Any]] = _by_hand if by_hand else _of_a_run
    meter = ReportingMeter(sys.stderr)
    with meter.running():
        return step(arguments, meter)


def _by_hand(arguments: argparse.Namespace, meter: Meter) -> Mapping[str, Any]:
    if arguments.command == "plan":
        if arguments.dry_run:
            raise ConfigError(
                "--dry-run: a plan writes nothing but itself; use shardline merge --dry-run for a forecast"
            )
        return plan_parts(request_from(arguments))
    if arguments.command == "write":
        return write_part(arguments.output, _part(arguments.part), arguments.workers, meter)
    merged = commit_parts(arguments.output, arguments.workers, meter)
    _notice(merged)
    return {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}


def _of_a_run(arguments: argparse.Namespace, meter: Meter) -> Mapping[str, Any]:
    run = run_directory_from(arguments, os.environ)
    if arguments.command == "write":
        return write_part_of_run(run, _part(arguments.part), arguments.workers, meter)
    with run.lock():
        if arguments.command == "plan":
            return plan_run(run, arguments.parts)
        return commit_run(run, arguments.workers, meter, _notice)


def _notice(merged: Merged) -> None:
    for notice in merged.notices:
        print(f"note: {notice}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        parsed = _parser().parse_args(arguments)
        return command_line.main(partial(_run, parsed))
