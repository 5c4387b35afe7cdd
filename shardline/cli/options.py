"""The options of `shardline merge`, and the request that they make."""

from __future__ import annotations

import argparse
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.base.sizes import parse_size
from shardline.base.workers import default_workers
from shardline.checkpoint.formats.tensor_types import CASTS
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.listed_names import listed_names
from shardline.checkpoint.shards.renaming import read_rules
from shardline.checkpoint.shards.selection import Selection
from shardline.run import command_line


def parser(description: str) -> argparse.ArgumentParser:
    """All options of a merge by hand, beside `--run-directory`."""
    arguments = command_line.parser(description)
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    add_merge_options(arguments)
    arguments.add_argument("--verify", type=Path, metavar="FILE", help="compare a merged file with its record")
    return arguments


def add_merge_options(arguments: argparse.ArgumentParser) -> None:
    """What to merge, into what, and how."""
    add_source_options(arguments)
    arguments.add_argument("--output", type=Path, metavar="FILE", help="*.ckpt or *.safetensors")
    arguments.add_argument("--format", choices=("ckpt", "safetensors"), help="where the output's name has no suffix")
    arguments.add_argument("--max-file-size", type=size, metavar="SIZE", help="several .safetensors and an index: 5GB")
    add_selection_options(arguments)
    arguments.add_argument("--allow-non-finite", action="store_true", help="accept NaN and infinities")
    arguments.add_argument("--crc", action="store_true", help="end a .ckpt with MindSpore's checksum")
    arguments.add_argument("--no-proof", action="store_true", help="compare replicas, but don't read the output again")
    arguments.add_argument("--dry-run", action="store_true", help="only say what would be done, and what it would take")


def add_source_options(arguments: argparse.ArgumentParser) -> None:
    """Where slices come from."""
    arguments.add_argument("--shards", type=Path, metavar="DIR", help="the folder that holds rank_0, rank_1, …")
    arguments.add_argument("--strategy", type=Path, nargs="+", default=[], metavar="FILE", help="one a pipeline stage")
    arguments.add_argument("--step", help="global step (with manifests), EPOCH_STEP or STEP; default: the newest")
    arguments.add_argument("--prefix", metavar="GLOB", help="of several trainings' files, those of this prefix or name")
    arguments.add_argument("--integrated", action="store_true", help="every rank saved the whole model")
    arguments.add_argument("--workers", type=positive, help="threads")
    arguments.add_argument("--json", action="store_true", help="print the result alone")


def add_selection_options(arguments: argparse.ArgumentParser) -> None:
    """Which tensors to keep, and in which type."""
    arguments.add_argument("--include", nargs="+", action="extend", default=[], metavar="GLOB", help="keep only these")
    arguments.add_argument("--exclude", nargs="+", action="extend", default=[], metavar="GLOB", help="leave these out")
    arguments.add_argument("--weights-only", action="store_true", help="leave optimizer states out")
    arguments.add_argument(
        "--trainable-from",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="the weights to keep: a list of names, an index, a checkpoint, or strategies; implies --weights-only",
    )
    arguments.add_argument(
        "--rename", type=Path, metavar="FILE", help="names in the output: PATTERN = REPLACEMENT a line"
    )
    arguments.add_argument("--dtype", choices=tuple(CASTS), help="cast floating-point tensors")


def selection_from(arguments: argparse.Namespace) -> Selection:
    """The selection that the parsed options make."""
    return Selection(
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        weights_only=arguments.weights_only or bool(arguments.trainable_from),
        dtype=arguments.dtype,
        trainable=listed_names(arguments.trainable_from) if arguments.trainable_from else None,
        rename=read_rules(arguments.rename) if arguments.rename is not None else (),
    )


def request_from(arguments: argparse.Namespace) -> MergeRequest:
    """The request that the parsed options make; `ConfigError` where one is missing or two clash."""
    if arguments.shards is None or arguments.output is None:
        raise ConfigError("--shards DIR and --output FILE go together; give both, or --run-directory")
    return MergeRequest(
        shards=arguments.shards,
        strategies=tuple(arguments.strategy),
        output=output_with_format(arguments.output, arguments.format),
        step=arguments.step,
        prefix=arguments.prefix,
        integrated=arguments.integrated or None,
        selection=selection_from(arguments),
        max_file_size=arguments.max_file_size,
        crc=arguments.crc,
        allow_non_finite=arguments.allow_non_finite,
        proof=not arguments.no_proof,
        workers=arguments.workers or default_workers(),
    )


def output_with_format(output: Path, file_format: str | None) -> Path:
    """`output` with the suffix of its format."""
    if file_format is None or output.suffix == f".{file_format}":
        return output
    if output.suffix in (".ckpt", ".safetensors"):
        raise ConfigError(f"--output {output} and --format {file_format} contradict each other; leave one of them out")
    return output.with_name(f"{output.name}.{file_format}")


def size(text: str) -> int:
    """Bytes: 5GB is decimal, 5GiB binary."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")
    return int(text)
