"""What a merge is asked to do, and what its inputs turn out to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError, LayoutError
from shardline.base.recordable import check_recordable
from shardline.base.workers import default_workers
from shardline.checkpoint.formats.output_file import OutputFile, detect_format, layout_output
from shardline.checkpoint.merging.record_file import record_path
from shardline.checkpoint.shards.checkpoint2 import find_iteration, is_checkpoint2, plan_checkpoint2
from shardline.checkpoint.shards.finding import SliceSet, find_slices
from shardline.checkpoint.shards.plan import Plan, plan_merge
from shardline.checkpoint.shards.selection import Selection, selection_record
from shardline.checkpoint.strategy.strategy_file import StagedLayouts, read_layouts


@dataclass(frozen=True)
class MergeRequest:
    """What to merge into what. `step` and `prefix` are as `find_slices` takes them.

    `integrated` says that every rank's file is whole.
    `max_file_size` (bytes) splits a .safetensors output; `crc` ends a .ckpt with MindSpore's checksum. Without `proof`
    replicas are still compared. A request that `owns_folder` replaces whatever merges are there, of any name.
    """

    shards: Path
    strategies: tuple[Path, ...]
    output: Path
    step: str | None = None
    prefix: str | None = None
    integrated: bool | None = None
    selection: Selection = field(default_factory=Selection)
    max_file_size: int | None = None
    crc: bool = False
    allow_non_finite: bool = False
    proof: bool = True
    owns_folder: bool = False
    workers: int = field(default_factory=default_workers)

    @property
    def record_path(self) -> Path:
        return record_path(self.output)


@dataclass(frozen=True)
class Prepared:
    """A request whose inputs were found and understood: everything but the work."""

    request: MergeRequest
    plan: Plan
    files: tuple[OutputFile, ...]
    strategy_digests: tuple[str, ...]

    @property
    def slices(self) -> SliceSet:
        return self.plan.slices

    def options(self) -> dict[str, Any]:
        """What besides the inputs decides the output's bytes, or whether there is one."""
        request = self.request
        return {
            "output": request.output.name,
            **selection_record(request.selection),
            "integrated": self.plan.integrated,
            "max_file_size": request.max_file_size,
            "crc": request.crc,
            "allow_non_finite": request.allow_non_finite,
            "proof": request.proof,
        }

    def inputs(self, digests: Sequence[str]) -> dict[str, Any]:
        """The inputs as they stand in the record, given the digest of every rank's file."""
        files = [
            {
                "rank": rank if file.rank is None else file.rank,
                "path": str(file.path.relative_to(self.slices.directory)),
                "size": file.size,
                "digest": digest,
            }
            for rank, (file, digest) in enumerate(zip(self.slices.files, digests, strict=True))
        ]
        return {
            "step": self.slices.step,
            "manifest": self.slices.shard_set is not None,
            "strategies": list(self.strategy_digests),
            **self.slices.facts,
            "files": files,
        }


def prepare(request: MergeRequest) -> Prepared:
    """Find and check the inputs of `request` from their headers alone."""
    check_recordable("the output's name", request.output.name)
    plan, digests = plan_of(request)
    headers = [tensor.merged for tensor in plan.tensors]
    file_format = detect_format(request.output)
    files = layout_output(request.output.name, headers, file_format, request.max_file_size, request.crc)
    return Prepared(request, plan, files, digests)


def plan_of(request: MergeRequest) -> tuple[Plan, tuple[str, ...]]:
    """The plan that merges the slices of `request`, whoever saved them, and the digests of its strategy files."""
    for pattern in (*request.selection.include, *request.selection.exclude, request.prefix or "", request.step or ""):
        check_recordable("an option that selects", pattern)
    plan, digests = _plan_and_digests(request)
    for file in plan.slices.files:
        check_recordable("a file of the slices", file.path.relative_to(plan.slices.directory))
    return plan, digests


def _plan_and_digests(request: MergeRequest) -> tuple[Plan, tuple[str, ...]]:
    if is_checkpoint2(request.shards):
        _check_needs_no_strategy(request)
        return plan_checkpoint2(find_iteration(request.shards, request.step), request.selection), ()
    layouts, digests = read_strategies(request.strategies)
    slices = find_slices(request.shards, layouts.world_size if layouts else None, request.step, request.prefix)
    integrated = _is_integrated(request, slices)
    if layouts is None and not integrated:
        raise ConfigError(
            "which strategy? Give --strategy FILE, or --integrated where every rank saved the whole model"
        )
    _check_strategy_of(slices, request.strategies, digests)
    return plan_merge(slices, layouts, request.selection, integrated), digests


def _check_needs_no_strategy(request: MergeRequest) -> None:
    given = [f"--strategy {request.strategies[0]}"] if request.strategies else []
    given += ["--integrated"] if request.integrated else []
    given += ["--prefix"] if request.prefix is not None else []
    if given:
        raise ConfigError(
            f"{request.shards} is Checkpoint 2.0 of MindFormers, whose metadata.json says how it is sharded and where "
            f"every slice lies; leave {' and '.join(given)} out"
        )


def read_strategies(paths: Sequence[Path]) -> tuple[StagedLayouts | None, tuple[str, ...]]:
    """The layouts of all stages and the digests of the files that differ; no layouts where there are no files."""
    if not paths:
        return None, ()
    return read_layouts(paths)


def _is_integrated(request: MergeRequest, slices: SliceSet) -> bool:
    """What the manifest says; a request that contradicts it is refused."""
    if slices.shard_set is None:
        return bool(request.integrated)
    if request.integrated is not None and request.integrated != slices.shard_set.integrated:
        raise ConfigError(
            f"{slices.directory}: the manifest of step {slices.step} says that integrated_save was "
            f"{slices.shard_set.integrated}, the request says {request.integrated}; leave it to the manifest"
        )
    return slices.shard_set.integrated


def _check_strategy_of(slices: SliceSet, paths: Sequence[Path], digests: Sequence[str]) -> None:
    """Refuse a strategy file other than the one that the manifest names."""
    if slices.shard_set is None or len(digests) != 1 or slices.shard_set.strategy_digest in ("", *digests):
        return
    raise LayoutError(
        f"{paths[0]} has the digest {digests[0][:16]}…, but the slices of step {slices.step} were saved with the "
        f"strategy {slices.shard_set.strategy_digest[:16]}…; give the strategy file of that run"
    )
