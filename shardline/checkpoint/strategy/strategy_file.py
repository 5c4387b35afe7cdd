"""Strategy files: how MindSpore's compiler sharded every parameter. Read and written, protocol buffers and JSON.

Both forms are MindSpore 2.10's (`node_strategy.proto`, `merge_pipeline_strategys`). A network with pipeline stages
has one file a stage, or one file in which the names read `STAGE-NAME`: `layouts_by_stage` takes either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import CorruptShard, LayoutError, MissingShard
from shardline.checkpoint.strategy import json_form, protobuf_form
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy import ACCUMULATED, OperatorStrategy, Strategy

__all__ = [
    "ACCUMULATED",
    "OperatorStrategy",
    "StagedLayouts",
    "Strategy",
    "joined_stages",
    "layouts_by_stage",
    "read_strategy",
    "without_compilers_own",
    "write_strategy",
]

_MERGED_NAME = re.compile(r"^(\d+)-(.+)$", re.DOTALL)
_LARGEST_FILE = 2**31 - 1
_RECEIVE = "Receive_"
_CURRENT_STAGE_OF_JOINED = 1


@dataclass(frozen=True)
class StagedLayouts:
    """The layouts of a whole network: parameter name → layout, for each pipeline stage in order."""

    stages: tuple[Mapping[str, Layout], ...]
    ranks_per_stage: int

    @property
    def world_size(self) -> int:
        return self.ranks_per_stage * len(self.stages)

    @property
    def names(self) -> frozenset[str]:
        """Every stage's parameters and optimizer states."""
        return frozenset(name for stage in self.stages for name in stage)

    @property
    def saved_names(self) -> frozenset[str]:
        """Those of `names` that every shard set has: sums of gradients may be left out, they begin at 0."""
        return frozenset(name for name in self.names if not name.startswith(ACCUMULATED))


def read_strategy(path: Path) -> Strategy:
    """The strategy file at `path`, in whichever form it is.

    Raises `MissingShard` where there is none, `CorruptShard` where its bytes are no strategy, and `LayoutError` where
    a layout contradicts itself.
    """
    content = _read(path)
    if content.lstrip()[:1] == b"{":
        return json_form.decode(content, path)
    return protobuf_form.decode(content, path)


def write_strategy(strategy: Strategy, path: Path) -> None:
    """Write `strategy` to `path` as a whole: as JSON where the name ends in `.json`, else as protocol buffers."""
    encode = json_form.encode if path.suffix == ".json" else protobuf_form.encode
    atomic.write_bytes(path, encode(strategy))


def layouts_by_stage(strategies: Sequence[tuple[Path, Strategy]]) -> StagedLayouts:
    """The layouts of all stages, from one file a stage or from one file with merged names.

    Raises `MissingShard` where a stage is missing, `LayoutError` where two files are of the same stage and differ,
    or where the layouts speak of different numbers of ranks.
    """
    stages: dict[int, dict[str, Layout]] = {}
    origin: dict[int, Path] = {}
    for path, strategy in strategies:
        for stage, layouts in _stages_in(strategy).items():
            if stages.setdefault(stage, layouts) != layouts:
                raise LayoutError(
                    f"{path} and {origin[stage]} are both of pipeline stage {stage}, and differ; give one file for "
                    "each stage, all of one run"
                )
            origin.setdefault(stage, path)
    missing = sorted(set(range(max(stages, default=0) + 1)) - set(stages))
    if missing:
        raise MissingShard(
            f"pipeline stages {missing} have no strategy among {[str(path) for path, _ in strategies]}; "
            "give the strategy files of all stages"
        )
    return StagedLayouts(tuple(stages[stage] for stage in sorted(stages)), _ranks_per_stage(stages, origin))


def without_compilers_own(strategy: Strategy) -> Strategy:
    """`strategy` without what the compiler adds for stages: how they receive, and the sums of gradients."""
    return replace(
        strategy,
        operators={name: item for name, item in strategy.operators.items() if not name.startswith(_RECEIVE)},
        layouts={name: item for name, item in strategy.layouts.items() if not name.startswith(ACCUMULATED)},
    )


def joined_stages(strategies: Sequence[Strategy]) -> Strategy:
    """One strategy of all stages, with the names `STAGE-NAME` of MindSpore's `merge_pipeline_strategys`, sorted."""
    stages = [without_compilers_own(strategy) for strategy in strategies]
    return Strategy(
        stage=0,
        operators={f"{each.stage}-{name}": each.operators[name] for each in stages for name in sorted(each.operators)},
        layouts={f"{each.stage}-{name}": each.layouts[name] for each in stages for name in sorted(each.layouts)},
        current_stage=_CURRENT_STAGE_OF_JOINED,
    )


def _stages_in(strategy: Strategy) -> dict[int, dict[str, Layout]]:
    names = [_MERGED_NAME.match(name) for name in strategy.layouts]
    if not names or not all(names):
        return {strategy.stage: dict(strategy.layouts)}
    stages: dict[int, dict[str, Layout]] = {}
    for match, layout in zip(names, strategy.layouts.values(), strict=True):
        if match is not None:
            stages.setdefault(int(match[1]), {})[match[2]] = layout
    return stages


def _ranks_per_stage(stages: Mapping[int, Mapping[str, Layout]], origin: Mapping[int, Path]) -> int:
    found: dict[int, str] = {}
    for stage, layouts in stages.items():
        for name, layout in layouts.items():
            found.setdefault(layout.world_size, f"{layout.world_size} for {name} ({origin[stage]})")
    if len(found) != 1:
        raise LayoutError(
            f"expected layouts that agree on the number of ranks, found {'; '.join(found.values()) or 'no layout'}"
        )
    return next(iter(found))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise CorruptShard(f"{path}: expected a strategy file, found {path.stat().st_size} bytes")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingShard(f"{path}: there is no strategy file; give the one that the training run saved") from error
    except OSError as error:
        raise CorruptShard(f"{path}: the strategy file cannot be read: {error.strerror}") from error
    if not content:
        raise CorruptShard(f"{path}: expected a strategy file, found an empty one")
    return content
