"""Merge in parts, on several machines that share a folder.

    python -m tasks.merge_parts plan --shards DIR --strategy FILE [FILE…] --output FILE [options of tasks.merge]
    python -m tasks.merge_parts write --output FILE --part I/N       any order, any host, again after a failure
    python -m tasks.merge_parts commit --output FILE                 when all parts are written

The result is the same, byte for byte, as that of `python -m tasks.merge`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import command_line
from tasks.checkpoint.parts import Part, commit_parts, plan_parts, write_part
from tasks.checkpoint.progress import ReportingMeter
from tasks.errors import ConfigError
from tasks.merge_options import add_merge_options, request_from
from tasks.termination import clean_up_when_terminated


def _parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = arguments.add_subparsers(dest="command", required=True)
    add_merge_options(steps.add_parser("plan", help="reserve the output and write the plan"))
    for name, purpose in (("write", "write and prove one part"), ("commit", "publish what all parts wrote")):
        step = steps.add_parser(name, help=purpose)
        step.add_argument("--output", type=Path, required=True, metavar="FILE", help="as it was planned")
        step.add_argument("--workers", type=int, help="threads")
        if name == "write":
            step.add_argument("--part", type=_part, required=True, metavar="I/N")
    return arguments


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a part such as 1/4, found {text!r}")
    return int(match[1]), int(match[2])


def _run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if arguments.command == "plan":
        if arguments.dry_run:
            raise ConfigError("--dry-run: a plan writes nothing but itself; use tasks.merge --dry-run for a forecast")
        return plan_parts(request_from(arguments))
    meter = ReportingMeter(sys.stderr)
    with meter.running():
        if arguments.command == "write":
            return write_part(arguments.output, Part(*arguments.part), arguments.workers, meter)
        merged = commit_parts(arguments.output, arguments.workers, meter)
    for notice in merged.notices:
        print(f"note: {notice}", file=sys.stderr)
    return {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}


if __name__ == "__main__":
    with clean_up_when_terminated():
        parsed = _parser().parse_args()
        sys.exit(command_line.main(lambda: _run(parsed)))
