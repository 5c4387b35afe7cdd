"""Merge the slices that the ranks saved into one integrated checkpoint, proved and recorded.

    shardline merge --run-directory DIR                                  a run of the pipeline
    shardline merge --shards DIR --strategy FILE [FILE…] --output FILE   any folder of rank_N folders
    shardline merge --verify FILE                                        a merged file against its record

In a run, the newest complete shard set is merged (or `checkpoint_step`), into `merged/model.FORMAT` with its proof
`merged/merge.json`. The same inputs give the same bytes; where they are there already, nothing is done.
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

from shardline.base.errors import ConfigError
from shardline.base.progress import Meter, ReportingMeter, human_size
from shardline.base.termination import clean_up_when_terminated
from shardline.checkpoint.merging.forecast import forecast
from shardline.checkpoint.merging.merge import Merged, merge
from shardline.checkpoint.merging.request import prepare
from shardline.checkpoint.merging.verify import verify
from shardline.cli.options import parser, request_from
from shardline.run import command_line
from shardline.run.environment import run_directory_from
from shardline.run.slices_to_merge import merge_run


def _run(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if arguments.verify is not None:
        return verified(arguments.verify, arguments.workers, arguments.json)
    with _meter(arguments.json) as meter:
        if arguments.shards is None and arguments.output is None:
            directory = run_directory_from(arguments, os.environ)
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


def verified(file: Path, workers: int | None, quiet: bool) -> Mapping[str, Any]:
    """What verifying `file` found; `ProofError` names what differs."""
    with _meter(quiet) as meter:
        record = verify(file, meter, workers)
    return {"verified": str(file), "tensors": len(record["tensors"]), "output": record["output"]}


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
    print(f"from {_taken(record['inputs']['files'])}")
    for file in record["output"]:
        print(f"{merged.output.with_name(file['name'])}: {human_size(file['size'])}, BLAKE3 {file['digest'][:16]}…")
    if record["proof"]:
        print(f"proved: {record['proof']['slices_compared']} slices of {record['proof']['tensors']} tensors compared")


def _taken(files: Sequence[Mapping[str, Any]]) -> str:
    """Which files were merged: their number, the first and the last. The record names them all."""
    paths = [str(file["path"]) for file in files]
    return paths[0] if len(paths) == 1 else f"{len(paths)} files, {paths[0]} to {paths[-1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with clean_up_when_terminated():
        parsed = parser(__doc__ or "").parse_args(arguments)
        return command_line.main(lambda: _run(parsed))
