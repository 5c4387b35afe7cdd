"""A mapping applied to a checkpoint: each tensor of the export, and which part of which parameter lies where in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise

from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.file_index import TensorHeader, is_parameter_name
from shardline.checkpoint.strategy.boxes import Box
from shardline.export.mapping import NameMapping, Numbers, Rule

_RESERVED = "__metadata__"


@dataclass(frozen=True)
class Joined:
    """Parameters joined along `axis`, whose axes are then taken in the order of `axes`."""

    sources: tuple[TensorHeader, ...]
    axis: int
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Joined, before the axes are reordered."""
        return tuple(
            sum(source.shape[d] for source in self.sources) if d == self.axis else size
            for d, size in enumerate(self.sources[0].shape)
        )

    @property
    def reordered(self) -> tuple[int, ...]:
        """The shape after that."""
        return tuple(self.shape[axis] for axis in self.axes)

    def boxes(self) -> Iterator[tuple[TensorHeader, Box]]:
        """Each parameter, and the part of the whole, before the axes are reordered, that is its."""
        start = 0
        for source in self.sources:
            starts = tuple(start if d == self.axis else 0 for d in range(len(source.shape)))
            yield source, Box(starts, source.shape)
            start += source.shape[self.axis] if source.shape else 0


@dataclass(frozen=True)
class Target:
    """One tensor of the export: the part of `joined` that begins at `starts`, in the order after reordering."""

    header: TensorHeader
    joined: Joined
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """All tensors of an export, in the rules' order, and the parameters that it leaves out."""

    tensors: tuple[Target, ...]
    left_out: tuple[str, ...]


def targets_of(mapping: NameMapping, headers: Iterable[TensorHeader]) -> Targets:
    """What `mapping` makes of a checkpoint's tensors.

    `ConfigError` names a parameter that no rule takes, or two do; a rule that finds none; two that give one name; and
    shapes or types that do not go together.
    """
    present = {header.name: header for header in headers}
    left_out = tuple(name for name in present if any(fnmatchcase(name, pattern) for pattern in mapping.leave_out))
    taken: dict[str, Rule] = {}
    given: dict[str, Rule] = {}
    hidden = frozenset(left_out)
    available = {name: header for name, header in present.items() if name not in hidden}
    tensors = []
    for rule in mapping.rules:
        for numbers, sources in _matches(rule, available, left_out):
            _take(rule, sources, taken)
            for target in _targets(rule, numbers, sources):
                _check_name(rule, target.header.name, given)
                tensors.append(target)
    if missing := [name for name in available if name not in taken]:
        raise ConfigError(
            f"{mapping.name}: expected a rule for every parameter, found none for {_some(missing)}; add one, or the "
            "name to leave_out"
        )
    return Targets(tuple(tensors), left_out)


def _matches(
    rule: Rule, headers: Mapping[str, TensorHeader], left_out: Sequence[str]
) -> Iterator[tuple[Numbers, list[TensorHeader]]]:
    found = _found(rule, headers)
    if not found:
        hidden = [name for name in left_out if rule.numbers_of(name) is not None]
        reason = f"leave_out takes {_some(hidden)}" if hidden else f"there are {_some([*headers])}"
        raise ConfigError(
            f"{rule.where}: expected a parameter {rule.sources[0]}, found none of that name: {reason}; correct the "
            "rule, or remove it"
        )
    for name, numbers in found:
        names = [name, *(rule.filled(source, numbers) for source in rule.sources[1:])]
        absent = [each for each in names if each not in headers]
        if absent:
            raise ConfigError(f"{rule.where}: expected {_some(absent)} beside {name}, to join them, found none")
        yield numbers, [headers[each] for each in names]


def _found(rule: Rule, headers: Mapping[str, TensorHeader]) -> list[tuple[str, Numbers]]:
    """The parameters that are the first in `from`, and what its placeholders stand for in each."""
    if not rule.placeholders:
        name = rule.sources[0]
        return [(name, {})] if name in headers else []
    return [(name, numbers) for name in headers if (numbers := rule.numbers_of(name)) is not None]


def _take(rule: Rule, sources: Iterable[TensorHeader], taken: dict[str, Rule]) -> None:
    for source in sources:
        if source.name in taken:
            raise ConfigError(
                f"{rule.where}: expected a parameter that no other rule takes, found {source.name!r}, which "
                f"{taken[source.name].where} takes; make one of them narrower"
            )
        taken[source.name] = rule


def _check_name(rule: Rule, name: str, given: dict[str, Rule]) -> None:
    if name in given:
        raise ConfigError(
            f"{rule.where}: two tensors of the export would be named {name!r} (the other is of {given[name].where}); "
            "expected one name for each"
        )
    if not is_parameter_name(name) or name == _RESERVED:
        raise ConfigError(f"{rule.where}: expected a parameter's name in `to`, found {name!r}")
    given[name] = rule


def _targets(rule: Rule, numbers: Numbers, sources: Sequence[TensorHeader]) -> Iterator[Target]:
    joined = _joined(rule, sources)
    shape = joined.reordered
    for name, starts, sizes in zip(rule.targets, *_parts(rule, shape, sources), strict=True):
        header = TensorHeader(rule.filled(name, numbers), sources[0].type, sizes)
        if rule.shape is not None and header.numbers != rule.shape:
            raise ConfigError(
                f"{rule.where}: expected {header.name!r} to have the shape {list(rule.shape)}, found "
                f"{list(header.numbers)} made of {_described(sources)}"
            )
        yield Target(header, joined, starts)


def _joined(rule: Rule, sources: Sequence[TensorHeader]) -> Joined:
    first = sources[0]
    dimensions = len(first.shape)
    axis = rule.join or 0
    if rule.join is not None and rule.join >= dimensions:
        raise ConfigError(f"{rule.where}: join: there is no axis {rule.join} in {_described(sources)}")
    for other in sources[1:]:
        if len(other.shape) != dimensions or any(
            a != b for d, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if d != axis
        ):
            raise ConfigError(
                f"{rule.where}: expected shapes that differ along axis {axis} alone, to join them, found "
                f"{_described(sources)}"
            )
        if other.type != first.type:
            raise ConfigError(
                f"{rule.where}: expected one element type, to join them, found {first.type.name} of {first.name} and "
                f"{other.type.name} of {other.name}"
            )
    axes = rule.axes or tuple(range(dimensions))
    if rule.transpose:
        axes = tuple(reversed(range(dimensions)))
    if len(axes) != dimensions:
        raise ConfigError(
            f"{rule.where}: transpose: expected the order of {counted(dimensions, 'axis', 'axes')}, found {list(axes)}"
        )
    if first.type.packed > 1 and (rule.join is not None or rule.split is not None or axes != tuple(sorted(axes))):
        raise ConfigError(
            f"{rule.where}: {first.name!r} is {first.type.name}, of which several numbers share a byte; expected a "
            "rule that only gives it a name"
        )
    return Joined(tuple(sources), axis, axes)


def _parts(
    rule: Rule, shape: tuple[int, ...], sources: Sequence[TensorHeader]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Where each part begins, and its shape."""
    if rule.split is None:
        return [(0,) * len(shape)], [shape]
    if rule.split >= len(shape):
        raise ConfigError(f"{rule.where}: split: there is no axis {rule.split} in {list(shape)}, {_described(sources)}")
    size, count = shape[rule.split], len(rule.targets)
    sizes = rule.sizes or (size // count,) * count
    if sum(sizes) != size:
        expected = "sizes that sum up to" if rule.sizes else f"{counted(count, 'equal part')} of"
        raise ConfigError(
            f"{rule.where}: split: expected {expected} the {size} along axis {rule.split} of {_described(sources)}, "
            f"found {list(sizes)}"
        )
    ends = pairwise(accumulate(sizes, initial=0))
    ranges = [(start, end - start) for start, end in ends]
    return (
        [tuple(start if d == rule.split else 0 for d in range(len(shape))) for start, _ in ranges],
        [tuple(size if d == rule.split else n for d, n in enumerate(shape)) for _, size in ranges],
    )


def _described(sources: Iterable[TensorHeader]) -> str:
    return ", ".join(f"{source.name} {list(source.numbers)}" for source in sources)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {counted(len(names) - 8, 'other')}" if len(names) > 8 else shown or "none"
