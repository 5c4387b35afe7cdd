"""Which rank holds which slice of every parameter, and how large it is.

From the strategy file, and, for shapes and element types, from the newest complete shard set: the headers of one file
a pipeline stage. Parameters are cut in few different ways, so that each way is described once (`layouts`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.errors import LayoutError
from shardline.checkpoint.formats.file_index import FileIndex, TensorHeader
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.shards.roles import Role, roles_of
from shardline.checkpoint.shards.selection import traits_of
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import Layout, replicated
from shardline.checkpoint.strategy.strategy_file import StagedLayouts, read_layouts
from shardline.page.containment import Contained
from shardline.run.described_run import strategies_of
from shardline.run.directory import RunDirectory
from shardline.settings.training_config import TrainingConfig

MOST_RANKS = 4096
"""As many as a run can have (`RunConfig.world_size`): a damaged file may speak of millions."""


@dataclass
class _Ways:
    """The different layouts, in the order of their first use."""

    known: dict[Layout, int] = field(default_factory=dict)

    def number(self, layout: Layout) -> int:
        return self.known.setdefault(layout, len(self.known))

    def describe(self) -> list[dict[str, Any]]:
        return [_describe(layout) for layout in self.known]


def strategies_to_show(files: Contained) -> tuple[Path, ...]:
    """The run's strategy files, where there are any yet: of our own trainings one, of described ones maybe several."""
    run = RunDirectory(files.root)
    document = files.document(run.config_file) or {}
    if "training" in document:
        found = strategies_of(run, TrainingConfig.from_json(json.dumps(document)))
        return tuple(files.path(path) for path in found)
    name = Path(str(document.get("strategy_save_file") or "src_strategy.ckpt")).name  # config.json may be anybody's
    path = files.path(files.root / name)
    return (path,) if path.is_file() else ()


def read_shard_map(files: Contained, strategies: Sequence[Path]) -> dict[str, Any] | None:
    """The map of the run with these strategy files; `None` before training has written one.

    Sizes are `None` until a shard set is complete. Raises `CheckpointError` where a file cannot be understood.
    """
    if not strategies:
        return None
    staged, digests = read_layouts(strategies)
    if staged.world_size > MOST_RANKS:
        raise LayoutError(
            f"{strategies[0]} speaks of {counted(staged.world_size, 'rank')}; at most {MOST_RANKS} are shown"
        )
    shard_set = _shard_set_of(files, digests)
    indices = _first_files(files, staged, shard_set) if shard_set is not None else {}
    ways = _Ways()
    parameters = [row for stage in range(len(staged.stages)) for row in _parameters(stage, staged, indices, ways)]
    return {
        "step": shard_set.step if shard_set is not None else None,
        "integrated": shard_set.integrated if shard_set is not None else False,
        "world_size": staged.world_size,
        "ranks_per_stage": staged.ranks_per_stage,
        "stages": len(staged.stages),
        "layouts": ways.describe(),
        "parameters": parameters,
    }


def _shard_set_of(files: Contained, digests: Sequence[str]) -> ShardSet | None:
    """The newest complete shard set, unless it was saved under another strategy: by a try on other cards."""
    checkpoints = files.path(RunDirectory(files.root).checkpoints)
    newest = ShardSet.newest(checkpoints) if checkpoints.is_dir() else None
    is_of_them = newest is not None and (len(digests) > 1 or newest.strategy_digest in ("", *digests))
    return newest if is_of_them else None


def _first_files(files: Contained, staged: StagedLayouts, shard_set: ShardSet) -> dict[int, FileIndex]:
    """The headers of the first rank's file of each stage."""
    checkpoints = RunDirectory(files.root).checkpoints
    firsts = {stage: stage * staged.ranks_per_stage for stage in range(len(staged.stages))}
    return {
        stage: index_checkpoint(files.path(checkpoints / shard_set.slices[rank].path))
        for stage, rank in firsts.items()
        if rank < shard_set.world_size
    }


def _parameters(
    stage: int, staged: StagedLayouts, indices: Mapping[int, FileIndex], ways: _Ways
) -> Iterator[dict[str, Any]]:
    layouts = staged.stages[stage]
    headers = {header.name: header for header in indices[stage].schema.headers} if stage in indices else {}
    roles = roles_of(traits_of(headers, layouts), has_strategy=True)
    for name in dict.fromkeys([*layouts, *headers]):
        header = headers.get(name)
        layout = layouts.get(name) or _whole(header, staged.ranks_per_stage)
        yield {
            "name": name,
            "stage": stage,
            "layout": ways.number(layout),
            "in_strategy": name in layouts,
            "kind": "state" if roles[name] is Role.STATE else "weight" if name in layouts else "other",
            **_sizes(layout, header),
        }


def _whole(header: TensorHeader | None, ranks: int) -> Layout:
    return replicated(ranks, len(header.shape) if header is not None else 0)


def _sizes(layout: Layout, header: TensorHeader | None) -> dict[str, Any]:
    """Shapes of slice and whole, and their bytes; a file that holds whole tensors says nothing of slices."""
    if header is None or len(header.shape) != len(layout.tensor_map):
        shape = layout.tensor_shape
        return {"type": None, "shape": list(shape) if shape else None, "slice_shape": None, "bytes": None}
    whole = layout.full_shape(header.shape)
    return {
        "type": header.type.name,
        "shape": list(whole),
        "slice_shape": list(header.shape),
        "bytes": prod(whole) * header.type.itemsize,
    }


def _describe(layout: Layout) -> dict[str, Any]:
    return {
        "device_matrix": list(layout.device_matrix),
        "tensor_map": [list(axes) for axes in layout.tensor_map],
        "shards": list(layout.shards()),
        "optimizer_parts": layout.optimizer_parts,
        "replicas": _replicas(layout.replica_groups()),
        "slices": layout.slice_indices().tolist(),
    }


def _replicas(groups: Sequence[Sequence[int]]) -> int:
    return len(groups[0])
