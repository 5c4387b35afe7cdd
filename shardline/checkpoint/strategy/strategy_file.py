"""Strategy files: how MindSpore's compiler sharded every parameter. Read and written, protocol buffers and JSON.

Both forms are MindSpore 2.10's (`node_strategy.proto`, `merge_pipeline_strategys`). A network with pipeline stages
has one file a stage, or one file in which the names read `STAGE-NAME`: `layouts_by_stage` takes either. MindFormers
leaves a folder with one file a rank, equal within a stage: `strategy_files` takes it too.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from blake3 import blake3

from shardline.base import atomic
from shardline.base.counts import counted
from shardline.base.errors import CorruptShard, LayoutError, MissingShard
from shardline.base.protobuf_wire import ENCRYPTED
from shardline.checkpoint.strategy import json_form, protobuf_form
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy import ACCUMULATED, OperatorStrategy, Strategy

__all__ = [
    "ACCUMULATED",
    "OperatorStrategy",
    "StagedLayouts",
    "Strategy",
    "begins_like_a_strategy",
    "distinct_strategies",
    "joined_stages",
    "layouts_by_stage",
    "read_layouts",
    "read_strategy",
    "strategy_files",
    "without_compilers_own",
    "write_strategy",
]

_MERGED_NAME = re.compile(r"^([0-9]{1,9})-(.+)$", re.DOTALL)
_LARGEST_FILE = 2**27
"""Many times what a strategy of a hundred thousand parameters takes."""
_SUFFIXES = (".ckpt", ".json")
_FIRST_BYTE = b"\x08"
"""The key of `current_stage`, which is required and written first."""
_ANY_STRATEGY = "give the strategy file that the training saved (ckpt_strategy…, strategy.ckpt)"
_SHOWN = 8
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

    @cached_property
    def by_name(self) -> Mapping[str, Layout]:
        """Every name's layout, in the first stage that knows it."""
        layouts: dict[str, Layout] = {}
        for stage in self.stages:
            layouts |= {name: layout for name, layout in stage.items() if name not in layouts}
        return layouts

    @property
    def saved_names(self) -> frozenset[str]:
        """Those of `names` that every shard set has: sums of gradients may be left out, they begin at 0."""
        return frozenset(name for name in self.names if not name.startswith(ACCUMULATED))


def read_strategy(path: Path) -> Strategy:
    """The strategy file at `path`, in whichever form it is.

    Raises `MissingShard` where there is none, `CorruptShard` where its bytes are no strategy, and `LayoutError` where
    a layout contradicts itself, `UnsupportedFormat` where it says what MindSpore 2.10's don't.
    """
    return _decoded(_read(path), path)


def _decoded(content: bytes, path: Path) -> Strategy:
    is_json = path.suffix == ".json" or content.removeprefix(BOM_UTF8).lstrip()[:1] in (b"{", b"[")
    if not is_json and content[:1] != _FIRST_BYTE:
        raise CorruptShard(
            f"{path} is no strategy file of MindSpore's, or damaged: it begins with {content[:8]!r}; {_ANY_STRATEGY}"
        )
    strategy = json_form.decode(content, path) if is_json else protobuf_form.decode(content, path)
    stages = sorted({operator.stage for operator in strategy.operators.values()})
    if len(stages) > 1 and not _has_merged_names(strategy):
        raise LayoutError(
            f"{path}: its operators are of pipeline stages {stages[:_SHOWN]}, but its parameters' names don't say of "
            "which stage each is (STAGE-NAME); give one file a stage, or what merge_pipeline_strategys made of them"
        )
    return strategy


def begins_like_a_strategy(path: Path) -> bool:
    """Whether the first byte at `path` is that of every strategy file in protocol buffers."""
    with path.open("rb") as file:
        return file.read(1) == _FIRST_BYTE


def strategy_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """`paths`, with each folder's strategy files (*.ckpt, *.json) in its place, in the order of their ranks.

    `MissingShard` where a folder has none.
    """
    return tuple(file for path in paths for file in (_files_in(path) if path.is_dir() else [path]))


def read_layouts(paths: Sequence[Path]) -> tuple[StagedLayouts, tuple[str, ...]]:
    """The layouts of all stages, from files and folders of them, and the digests of those files that differ, in order.

    Raises what `read_strategy` and `layouts_by_stage` do.
    """
    found = distinct_strategies(paths)
    return layouts_by_stage(list(found.values())), tuple(found)


def distinct_strategies(paths: Sequence[Path]) -> dict[str, tuple[Path, Strategy]]:
    """The strategies of files and folders of them, those that differ, by digest, in order; raises what `read_strategy`
    does.

    Each file is read once: the digest is that of the bytes which were understood, whoever writes it meanwhile.
    """
    found: dict[str, tuple[Path, Strategy]] = {}
    for path in strategy_files(paths):
        content = _read(path)
        digest = blake3(content).hexdigest()
        if digest not in found:
            found[digest] = path, _decoded(content, path)
    return found


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
    missing = list(islice((stage for stage in range(max(stages, default=0)) if stage not in stages), _SHOWN))
    if missing:
        more = f" and more, up to {max(stages)}," if len(missing) == _SHOWN else ""
        raise MissingShard(
            f"pipeline stages {missing}{more} have no strategy among {_some([path for path, _ in strategies])}; "
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


def _has_merged_names(strategy: Strategy) -> bool:
    return bool(strategy.layouts) and all(_MERGED_NAME.match(name) for name in strategy.layouts)


def _stages_in(strategy: Strategy) -> dict[int, dict[str, Layout]]:
    if not _has_merged_names(strategy):
        return {strategy.stage: dict(strategy.layouts)}
    stages: dict[int, dict[str, Layout]] = {}
    for merged, layout in strategy.layouts.items():
        stage, _, name = merged.partition("-")
        if stages.setdefault(int(stage), {}).setdefault(name, layout) is not layout:
            raise LayoutError(f"two layouts of the parameter {name} in pipeline stage {int(stage)}")
    return stages


def _files_in(folder: Path) -> list[Path]:
    """A folder's strategy files; hidden ones and other suffixes are nobody's."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise MissingShard(f"{folder}: cannot be read: {error.strerror}") from error
    files = [entry for entry in entries if entry.suffix in _SUFFIXES and entry.name[0] != "." and entry.is_file()]
    if not files:
        inner = folder / "strategy"
        remedy = f"is it in {inner}?" if inner.is_dir() else _ANY_STRATEGY + ", or the folder that holds one a rank"
        raise MissingShard(f"{folder}: expected strategy files (*.ckpt, *.json) in this folder, found none; {remedy}")
    return sorted(files, key=lambda file: [int(n) if n.isdecimal() else n for n in re.split(r"(\d+)", file.name)])


def _some(paths: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN} more"


def _ranks_per_stage(stages: Mapping[int, Mapping[str, Layout]], origin: Mapping[int, Path]) -> int:
    found: dict[int, str] = {}
    for stage, layouts in stages.items():
        for name, layout in layouts.items():
            found.setdefault(layout.world_size, f"{layout.world_size} for {name} ({origin[stage]})")
    if not found:
        raise LayoutError(f"{_some(list(origin.values()))}: no layout of any parameter; {_ANY_STRATEGY}")
    if len(found) != 1:
        raise LayoutError(f"expected layouts that agree on the number of ranks, found {'; '.join(found.values())}")
    return next(iter(found))


def _read(path: Path) -> bytes:
    _check_kind(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptShard(f"{path}: the strategy file cannot be read: {error.strerror}") from error


def _check_kind(path: Path) -> None:
    """Refuse what is no strategy file by what it is, as its first bytes and its size tell."""
    try:
        if path.exists() and not path.is_file():
            raise CorruptShard(f"{path}: expected a strategy file, found no regular file; {_ANY_STRATEGY}")
        with path.open("rb") as file:
            start, size = file.read(9), path.stat().st_size
    except FileNotFoundError as error:
        raise MissingShard(f"{path}: there is no strategy file; {_ANY_STRATEGY}") from error
    except OSError as error:
        raise CorruptShard(f"{path}: the strategy file cannot be read: {error.strerror}") from error
    if not size:
        raise CorruptShard(
            f"{path}: expected a strategy file, found an empty one: was the training ended while it wrote? "
            f"{_ANY_STRATEGY}"
        )
    if int.from_bytes(start[:4], "little") in ENCRYPTED:
        raise CorruptShard(f"{path} is an encrypted checkpoint, no strategy file; {_ANY_STRATEGY}")
    # A strategy begins with its current_stage; a checkpoint with its first tensor, or with the length of its header.
    if start[:1] == b"\n" or (start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size):
        raise CorruptShard(f"{path} is a checkpoint, no strategy file; {_ANY_STRATEGY}")
    if size > _LARGEST_FILE:
        raise CorruptShard(f"{path}: expected a strategy file, found {counted(size, 'byte')}; {_ANY_STRATEGY}")
