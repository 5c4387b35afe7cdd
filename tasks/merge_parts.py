"""Merge in parts, on several machines that share a folder.

    python -m tasks.merge_parts plan --shards DIR --strategy FILE [FILE…] --output FILE [options of tasks.merge]
    python -m tasks.merge_parts write --output FILE --part I/N       any order, any host, again after a failure
    python -m tasks.merge_parts commit --output FILE                 when all parts are written

Without `--shards` and `--output`, the merge is that of a run of the pipeline, `--run-directory` or the environment's;
the part is the environment's SHARDLINE_PART then. The result is the same, byte for byte, as that of
`python -m tasks.merge`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tasks import command_line
from tasks.checkpoint.merge import Merged, merge
from tasks.checkpoint.parts import Part, commit_parts, is_merged, is_planned, plan_parts, write_part
from tasks.checkpoint.progress import Meter, ReportingMeter
from tasks.errors import ConfigError
from tasks.merge_options import add_merge_options, positive, request_from
from tasks.readers import reading
from tasks.run_directory import RunDirectory
from tasks.run_merge import request_of, result_of
from tasks.termination import clean_up_when_terminated

PART = "SHARDLINE_PART"


def plan_run(run: RunDirectory, count: int) -> dict[str, Any]:
    """Plan the run's merge in `count` parts, and say which are to be written: none where it was merged already."""
    parts = [Part(number, count).name for number in range(1, count + 1)]
    request = request_of(run)
    if is_merged(request):
        print(f"{request.output} is up to date: there is nothing to write")
        return {"parts": []}
    return plan_parts(request) | {"parts": parts}


def write_part_of_run(run: RunDirectory, part: Part, workers: int | None, meter: Meter) -> dict[str, Any]:
    """Write one part of the run's planned merge; several processes may, at once."""
    with reading(run.path):
        return write_part(run.merged_file(run.read_config()), part, workers, meter)


def commit_run(run: RunDirectory, workers: int | None, meter: Meter) -> dict[str, Any]:
    """Publish what the parts wrote.

    Without their plan, which a commit that was killed may have used up, `merge` does what is left: nothing, or all.
    """
    request = request_of(run)
    merged = commit_parts(request.output, workers, meter) if is_planned(request) else merge(request, meter)
    _notice(merged)
    return result_of(run, merged)


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
            raise ConfigError("--dry-run: a plan writes nothing but itself; use tasks.merge --dry-run for a forecast")
        return plan_parts(request_from(arguments))
    if arguments.command == "write":
        return write_part(arguments.output, _part(arguments.part), arguments.workers, meter)
    merged = commit_parts(arguments.output, arguments.workers, meter)
    _notice(merged)
    return {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}


def _of_a_run(arguments: argparse.Namespace, meter: Meter) -> Mapping[str, Any]:
    run = command_line.run_directory_from(arguments, os.environ)
    if arguments.command == "write":
        return write_part_of_run(run, _part(arguments.part), arguments.workers, meter)
    with run.lock():
        if arguments.command == "plan":
            return plan_run(run, arguments.parts)
        return commit_run(run, arguments.workers, meter)


def _notice(merged: Merged) -> None:
    for notice in merged.notices:
        print(f"note: {notice}", file=sys.stderr)


if __name__ == "__main__":
    with clean_up_when_terminated():
        parsed = _parser().parse_args()
        sys.exit(command_line.main(partial(_run, parsed)))
