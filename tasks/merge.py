"""Merge the slices that the ranks saved into one integrated checkpoint, proved and recorded.

    python -m tasks.merge --run-directory DIR                                  a run of the pipeline
    python -m tasks.merge --shards DIR --strategy FILE [FILE…] --output FILE   any folder of rank_N folders
    python -m tasks.merge --verify FILE                                        a merged file against its record

In a run, the newest complete shard set is merged (or `checkpoint_step`), into `merged/model.FORMAT` with its proof
`merged/merge.json`. The same inputs give the same bytes; where they are there already, nothing is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from tasks import command_line
from tasks.checkpoint.forecast import forecast
from tasks.checkpoint.merge import Merged, merge
from tasks.checkpoint.progress import Meter, ReportingMeter, human_size
from tasks.checkpoint.request import prepare
from tasks.checkpoint.verify import verify
from tasks.errors import ConfigError
from tasks.merge_options import parser, request_from
from tasks.run_directory import RunDirectory
from tasks.run_merge import request_of, result_of
from tasks.termination import clean_up_when_terminated


def merge_run(
    run: RunDirectory, meter: Meter | None = None, tell: Callable[[Merged], None] = lambda _: None
) -> dict[str, Any]:
    """Merge the run's shard set. `tell` is given the outcome, to say it to a person; the result is for tasks."""
    merged = merge(request_of(run), meter)
    tell(merged)
    return result_of(run, merged)


def _run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    with _meter(arguments.json) as meter:
        if arguments.verify is not None:
            record = verify(arguments.verify, meter, arguments.workers)
            return {"verified": str(arguments.verify), "tensors": len(record["tensors"]), "output": record["output"]}
        if arguments.shards is None and arguments.output is None:
            directory = command_line.run_directory_from(arguments, os.environ)
            with directory.lock():
                return merge_run(directory, meter, partial(_summarise, quiet=arguments.json))
        if arguments.run_directory is not None:
            raise ConfigError("--run-directory and --shards: a run knows its folders; leave one of them out")
        request = request_from(arguments)
        if arguments.dry_run:
            return forecast(prepare(request))
        merged = merge(request, meter)
    _summarise(merged, arguments.json)
    return {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}


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
    if merged.was_up_to_date:
        print(f"{merged.output} is up to date: nothing was done")
        return
    record = merged.record
    for file in record["output"]:
        print(f"{merged.output.with_name(file['name'])}: {human_size(file['size'])}, BLAKE3 {file['digest'][:16]}…")
    if record["proof"]:
        print(f"proved: {record['proof']['slices_compared']} slices of {record['proof']['tensors']} tensors compared")


if __name__ == "__main__":
    with clean_up_when_terminated():
        parsed = parser(__doc__ or "").parse_args()
        sys.exit(command_line.main(lambda: _run(parsed)))
