"""Which tensors go into the output, and in which element type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from shardline.base.counts import counted, of_count
from shardline.base.errors import ConfigError, MissingShard
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_types import CASTS, TEXT, TensorType
from shardline.checkpoint.shards.renaming import Rule
from shardline.checkpoint.shards.roles import Role, Trait, parameter_of, roles_of
from shardline.checkpoint.strategy.layout import Layout


class Choice(NamedTuple):
    """The names to keep, in order, and what whoever asked should know of the others."""

    names: tuple[str, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """What to keep. A tensor is kept if a pattern of `include` matches its name (or there is none) and none of
    `exclude` does.

    `weights_only` leaves out optimizer states and the scalars and texts that training saves beside the network;
    `trainable` are the names that it keeps, where somebody listed them. `known_only` leaves out whatever the strategy
    doesn't know. `dtype` casts floating-point tensors. `rename` gives names in the output; all else speaks of the
    slices' own.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weights_only: bool = False
    known_only: bool = False
    dtype: str | None = None
    trainable: tuple[str, ...] | None = None
    rename: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in CASTS:
            raise ConfigError(f"dtype {self.dtype!r}: expected one of {', '.join(CASTS)}")
        if self.trainable is not None and not self.weights_only:
            raise ConfigError("a list of trainable parameters says what --weights-only keeps; give that too")

    def choose(
        self,
        headers: Mapping[str, TensorHeader],
        layouts: Mapping[str, Layout] | None,
        recorded: AbstractSet[str] | None = None,
    ) -> Choice:
        """The names among `headers` to keep. `layouts` are what the strategy knows; `None` where there is none.

        Weights are those that were listed, else those that training `recorded`, else those that names, shapes and
        layouts show. `MissingShard` where a listed one isn't there.
        """
        roles = self._roles(headers, layouts, recorded) if self.weights_only else {}
        names = tuple(
            name
            for name in headers
            if self.matches(name)
            and not (self.known_only and layouts is not None and name not in layouts)
            and roles.get(name) not in (Role.STATE, Role.BESIDE)
        )
        notices = self._left_out(headers, roles, names, recorded) if self.weights_only else _orphans(headers, names)
        return Choice(names, tuple(notices))

    def target(self, source: TensorType) -> TensorType:
        """The element type that a tensor of type `source` is written in."""
        return CASTS[self.dtype] if self.dtype and source.is_castable else source

    def matches(self, name: str) -> bool:
        """Whether the patterns keep `name`."""
        included = not self.include or any(fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def unmatched(self, names: Iterable[str]) -> tuple[str, ...]:
        """The patterns, as OPTION PATTERN, that match none of `names`."""
        every = list(names)
        return tuple(
            f"{option} {pattern!r}"
            for option, patterns in (("--include", self.include), ("--exclude", self.exclude))
            for pattern in patterns
            if not any(fnmatchcase(name, pattern) for name in every)
        )

    def _roles(
        self,
        headers: Mapping[str, TensorHeader],
        layouts: Mapping[str, Layout] | None,
        recorded: AbstractSet[str] | None,
    ) -> Mapping[str, Role]:
        if self.trainable is not None:
            check_listed(self.trainable, headers)
        traits = traits_of(headers, layouts or {})
        listed = recorded if self.trainable is None else frozenset(self.trainable)
        if listed is None:
            return roles_of(traits, has_strategy=layouts is not None)
        others = {
            name: Role.BESIDE if trait.is_text or trait.is_small() else Role.STATE for name, trait in traits.items()
        }
        return {name: Role.WEIGHT if name in listed else role for name, role in others.items()}

    def _left_out(
        self,
        headers: Mapping[str, TensorHeader],
        roles: Mapping[str, Role],
        kept: Sequence[str],
        recorded: AbstractSet[str] | None,
    ) -> Iterator[str]:
        """What `weights_only` left out, by what; and what it kept because nothing decides."""
        source = (
            "the list of names says so"
            if self.trainable is not None
            else "training's own record says so"
            if recorded is not None
            else "judged by names, shapes and layouts"
        )
        out = {
            ("optimizer state", "optimizer states"): [name for name in headers if roles.get(name) is Role.STATE],
            ("training's counter or text", "training's counters and texts"): [
                name for name in headers if roles.get(name) is Role.BESIDE
            ],
        }
        groups = [
            f"{len(names)} as {of_count(len(names), *what)} ({_some(names)})" for what, names in out.items() if names
        ]
        if groups:
            yield f"weights only: {counted(len(kept), 'tensor')} kept; left out: {', '.join(groups)}; {source}"
        undecided = [name for name in kept if roles.get(name) is Role.UNDECIDED]
        if undecided:
            yield (
                f"weights only: nothing decides whether {len(undecided)} of these ({_some(undecided)}) are states or "
                "weights, so that they were kept; leave them out with --exclude, or name the weights with "
                "--trainable-from FILE"
            )


def traits_of(headers: Mapping[str, TensorHeader], layouts: Mapping[str, Layout]) -> dict[str, Trait]:
    """What is known of every tensor that the files have or the strategy knows."""
    traits = {
        name: Trait(
            header.shape,
            layouts.get(name),
            is_text=header.type is TEXT,
            is_discrete=header.type.is_integer or header.type.name == "Bool",
        )
        for name, header in headers.items()
    }
    return traits | {name: Trait(None, layout) for name, layout in layouts.items() if name not in traits}


def check_listed(listed: Sequence[str], names: Iterable[str]) -> None:
    """`MissingShard` where one of the parameters that somebody listed as trainable is not among `names`."""
    there = frozenset(names)
    absent = [name for name in listed if name not in there]
    if absent:
        raise MissingShard(
            f"the list of trainable parameters names {len(absent)} that no rank has saved, such as {absent[0]}; "
            "correct the list, or take the files of the run that it is of"
        )


def _orphans(headers: Mapping[str, TensorHeader], kept: Sequence[str]) -> Iterator[str]:
    """Patterns that take a parameter away mostly mean to take its states as well."""
    if len(kept) == len(headers):
        return
    present = frozenset(kept)
    out = {name for name in headers if name not in present}
    roles = roles_of(traits_of(headers, {}), has_strategy=False)
    orphans = [name for name in kept if roles[name] is Role.STATE and parameter_of(name, headers) in out]
    if orphans:
        kept_without = of_count(len(orphans), "is kept without its parameter", "are kept without their parameters")
        yield f"{counted(len(orphans), 'optimizer state')} ({_some(orphans)}) {kept_without}"


def _some(names: Sequence[str]) -> str:
    return f"such as {names[0]}" if len(names) > 2 else " and ".join(names)


def selection_record(selection: Selection) -> dict[str, Any]:
    """The selection as it stands in the record."""
    record: dict[str, Any] = {
        "include": list(selection.include),
        "exclude": list(selection.exclude),
        "weights_only": selection.weights_only,
        "known_only": selection.known_only,
        "dtype": selection.dtype,
    }
    if selection.trainable is not None:
        record["trainable"] = list(selection.trainable)
    if selection.rename:
        record["rename"] = [[rule.pattern, rule.replacement] for rule in selection.rename]
    return record


def selection_from(record: Mapping[str, Any]) -> Selection:
    """The selection that `selection_record` described."""
    listed: Iterable[str] | None = record.get("trainable")
    return Selection(
        include=tuple(record["include"]),
        exclude=tuple(record["exclude"]),
        weights_only=bool(record["weights_only"]),
        known_only=bool(record["known_only"]),
        dtype=record["dtype"],
        trainable=None if listed is None else tuple(listed),
        rename=tuple(Rule(old, new, f"rule {n}") for n, (old, new) in enumerate(record.get("rename", ()), 1)),
    )
