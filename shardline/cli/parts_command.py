"""Merge in parts, on several machines that share a folder.

    shardline merge-parts plan --shards DIR --strategy FILE [FILE…] --output FILE [options of shardline merge]
    shardline merge-parts write --output FILE --part I/N       any order, any host, again after a failure
    shardline merge-parts commit --output FILE                 when all parts are written

Without `--shards` and `--output`, the merge is that of a run of the pipeline, `--run-directory` or the environment's,
whose parameters say all but `--parts N`, which plan is told. The part may be the environment's SHARDLINE_PART. The
result is the same, byte for byte, as that of `shardline merge`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError
from shardline.base.progress import Meter, ReportingMeter
from shardline.base.termination import clean_up_when_terminated
from shardline.checkpoint.merging.merge import Merged
from shardline.checkpoint.merging.parts import Part, commit_parts, plan_parts, write_part
from shardline.checkpoint.shards.finding import what_was_taken
from shardline.cli.given import given_options, refuse, refuse_others
from shardline.cli.options import add_merge_options, positive, request_from
from shardline.run import command_line
from shardline.run.environment import run_directory_from
from shardline.run.parts_of_run import commit_run, plan_run, write_part_of_run

PART = "SHARDLINE_PART"
OF_A_RUN = ("--run-directory", "--parts", "--part", "--workers", "--json")
NOT_OF_A_PLAN = {
    "--dry-run": "a plan writes nothing but itself; shardline merge --dry-run makes a forecast",
    "--no-proof": "a merge in parts is always proved",
}
NOT_OF_A_PLAN_BY_HAND = {
    "--parts": "how many parts there are is said when they are written, --part 1/4",
    "--workers": "a plan reads nothing but headers; give it to write and commit",
}


def _parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = arguments.add_subparsers(dest="command", required=True)
    plan = steps.add_parser("plan", help="reserve the output and write the plan")
    add_merge_options(plan)
    plan.add_argument("--parts", type=positive, metavar="N", help="of a run: how many; default: 1")
    for name, purpose in (("write", "write and prove one part"), ("commit", "publish what all parts wrote")):
        step = steps.add_parser(name, help=purpose)
        step.add_argument("--output", type=Path, metavar="FILE", help="as it was planned")
        step.add_argument("--workers", type=positive, help="threads")
        step.add_argument("--json", action="store_true", help="print the result alone")
        if name == "write":
            step.add_argument("--part", metavar="I/N", help=f"which of how many; default: ${PART}")
    for step in steps.choices.values():
        step.add_argument("--run-directory", type=Path, metavar="DIR", help="the run's folder")
        step.set_defaults(options=step)
    return arguments


def _part(text: str | None) -> Part:
    text = os.environ.get(PART) if text is None else text
    match = re.fullmatch(r"(\d+)/(\d+)", text or "")
    if match is None:
        raise ConfigError(f"--part: expected a part such as 1/4, found {text!r}")
    return Part(int(match[1]), int(match[2]))


def _run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    by_hand = arguments.run_directory is None and (
        arguments.output is not None or getattr(arguments, "shards", None) is not None
    )
    _check_options(given_options(arguments.options, arguments), by_hand)
    step: Callable[[argparse.Namespace, Meter], Mapping[str, Any]] = _by_hand if by_hand else _of_a_run
    meter = Meter() if arguments.json else ReportingMeter(sys.stderr)
    with meter.running() if isinstance(meter, ReportingMeter) else nullcontext():
        return step(arguments, meter)


def _check_options(given: Sequence[str], by_hand: bool) -> None:
    for option, reason in (NOT_OF_A_PLAN | (NOT_OF_A_PLAN_BY_HAND if by_hand else {})).items():
        refuse([option] if option in given else [], reason)
    if not by_hand:
        refuse_others(given, OF_A_RUN, "the run's own parameters say what is merged, how, and into what")


def _by_hand(arguments: argparse.Namespace, meter: Meter) -> Mapping[str, Any]:
    if arguments.command == "plan":
        return plan_parts(request_from(arguments))
    if arguments.command == "write":
        return write_part(arguments.output, _part(arguments.part), arguments.workers, meter)
    merged = commit_parts(arguments.output, arguments.workers, meter)
    _notice(merged, arguments.json)
    return {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}


def _of_a_run(arguments: argparse.Namespace, meter: Meter) -> Mapping[str, Any]:
    run = run_directory_from(arguments, os.environ)
    if arguments.command == "write":
        return write_part_of_run(run, _part(arguments.part), arguments.workers, meter)
    with run.lock():
        if arguments.command == "plan":
            return plan_run(run, arguments.parts or 1, arguments.workers)
        return commit_run(run, arguments.workers, meter, partial(_notice, quiet=arguments.json))


def _notice(merged: Merged, quiet: bool) -> None:
    if quiet:
        return
    print(what_was_taken([str(file["path"]) for file in merged.record["inputs"]["files"]]), file=sys.stderr)
    for notice in merged.notices:
        print(f"note: {notice}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        parsed = _parser().parse_args(arguments)
        return command_line.main(partial(_run, parsed))
