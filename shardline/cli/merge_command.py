"""Merge the slices that the ranks saved into one integrated checkpoint, proved and recorded.

    shardline merge --run-directory DIR                                  a run of the pipeline
    shardline merge --shards DIR --strategy FILE [FILE…] --output FILE   any folder of rank_N folders
    shardline merge --verify FILE                                        a merged file against its record

In a run, the newest complete shard set is merged (or `checkpoint_step`), into `merged/model.FORMAT` with its proof
beside it, `model.FORMAT.merge.json`. The run's parameters say all the rest: of the options only --workers, --json and
--dry-run go with a run. The same inputs give the same bytes; where they are there already, nothing is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shardline.base.counts import counted, of_count
from shardline.base.progress import Meter, ReportingMeter, human_size
from shardline.base.termination import clean_up_when_terminated
from shardline.checkpoint.merging.forecast import forecast
from shardline.checkpoint.merging.merge import Merged, merge, notices_of
from shardline.checkpoint.merging.request import MergeRequest, prepare
from shardline.checkpoint.merging.verify import compared_tensors, verify
from shardline.checkpoint.shards.finding import what_was_taken
from shardline.cli.given import given_options, refuse_others
from shardline.cli.options import parser, request_from
from shardline.run import command_line
from shardline.run.environment import run_directory_from
from shardline.run.slices_to_merge import merge_run, request_of

OF_VERIFY = ("--verify", "--workers", "--json")
OF_A_RUN = ("--run-directory", "--workers", "--json", "--dry-run")


def _run(arguments: argparse.Namespace, given: Sequence[str]) -> Mapping[str, Any]:
    if arguments.verify is not None:
        refuse_others(given, OF_VERIFY, "--verify compares a merged file with its record and does nothing else")
        return verified(arguments.verify, arguments.workers, arguments.json)
    if arguments.run_directory is None and (arguments.shards, arguments.output) != (None, None):
        return _by_hand(arguments)
    refuse_others(
        given, OF_A_RUN, "the run's own parameters say what is merged, how, and into what (by hand: --shards, --output)"
    )
    return _of_a_run(arguments)


def _by_hand(arguments: argparse.Namespace) -> Mapping[str, Any]:
    request = request_from(arguments)
    if arguments.dry_run:
        return _forecast(request, arguments.json)
    with _meter(arguments.json) as meter:
        merged = merge(request, meter)
    _summarise(merged, arguments.json)
    result = {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}
    return {**result, "notices": list(merged.notices)} if arguments.json else result


def _of_a_run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    run = run_directory_from(arguments, os.environ)
    if arguments.dry_run:  # it changes nothing, so that it needs no lock
        return _forecast(request_of(run, arguments.workers), arguments.json)
    with _meter(arguments.json) as meter, run.lock():
        return merge_run(run, meter, partial(_summarise, quiet=arguments.json), arguments.workers)


def _forecast(request: MergeRequest, quiet: bool) -> Mapping[str, Any]:
    prepared = prepare(request)
    notices = notices_of(prepared)
    if quiet:
        return {**forecast(prepared), "notices": list(notices)}
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    return forecast(prepared)


def verified(file: Path, workers: int | None, quiet: bool) -> Mapping[str, Any]:
    """What verifying `file` found; `ProofError` names what differs."""
    with _meter(quiet) as meter:
        record = verify(file, meter, workers)
    compared, known = compared_tensors(record), len(record["tensors"])
    if compared < known and not quiet:
        print(
            f"note: {known - compared} of {counted(known, 'tensor')} {of_count(known - compared, 'was', 'were')} "
            "merged without proof: the files are as they were published, which says nothing of the slices",
            file=sys.stderr,
        )
    return {"verified": str(file), "tensors": compared, "output": record["output"]}


@contextmanager
def _meter(quiet: bool) -> Iterator[Meter]:
    if quiet:
        yield Meter()
        return
    meter = ReportingMeter(sys.stderr)
    with meter.running():
        yield meter


def _summarise(merged: Merged, quiet: bool) -> None:
    """What a person wants to know, above the result."""
    if quiet:
        return
    for notice in merged.notices:
        print(f"note: {notice}", file=sys.stderr)
    record = merged.record
    print(what_was_taken([str(file["path"]) for file in record["inputs"]["files"]]))
    if merged.was_up_to_date:
        print(f"{merged.output} is up to date: nothing was done")
        return
    for file in record["output"]:
        print(f"{merged.output.with_name(file['name'])}: {human_size(file['size'])}, BLAKE3 {file['digest'][:16]}…")
    if record["proof"]:
        proof = record["proof"]
        print(f"proved: {counted(proof['slices_compared'], 'slice')} of {counted(proof['tensors'], 'tensor')} compared")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        options = parser(__doc__ or "")
        parsed = options.parse_args(arguments)
        return command_line.main(lambda: _run(parsed, given_options(options, parsed)))
