"""Which tensors of a version become which of an export: rules for names, and for what is joined, transposed, split.

A rule takes one parameter, or joins several along an axis; transposes that; and gives one tensor, or splits it along
an axis into several. In names, `{i}` stands for a whole number, the same throughout a rule; in the names that a rule
gives, `{i-1}` and `{i+1}` count from elsewhere. Rules are one to one: each parameter has one, and each gives its own
name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from shardline.base.errors import ConfigError

_BRACES = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_AND_SHIFT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)([+-][0-9]{1,9})?")
_NUMBER = "0|[1-9][0-9]{0,8}"

Numbers = Mapping[str, int]
"""What the placeholders of a rule stand for."""


@dataclass(frozen=True)
class Where:
    """A place in a file, looked up when a message names it: the line of a statement costs many readings of the file."""

    look_up: Callable[[], str]

    def __str__(self) -> str:
        return self.look_up()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`sources` joined along `join`, in the order of `axes` (reversed where `transpose` is true), split into `targets`.

    Axes count from 0. `sizes` are those of the parts along `split`, which are equal where it isn't given; `shape` is
    what each tensor that the rule gives has to have. `where` is for messages: FILE:LINE.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    join: int | None = None
    transpose: bool = False
    axes: tuple[int, ...] | None = None
    split: int | None = None
    sizes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    where: str | Where = field(default="the mapping", compare=False)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ConfigError(f"{self.where}: {problem}")

    def _problems(self) -> Iterator[str]:
        if not self.sources or not self.targets:
            yield "expected at least one name in `from` and in `to`, found none"
        if (len(self.sources) > 1) != (self.join is not None):
            yield f"`join` is the axis that several parameters are joined along; found {len(self.sources)} in `from`"
        if (len(self.targets) > 1) != (self.split is not None):
            yield f"`split` is the axis that is parted among several names; found {len(self.targets)} in `to`"
        if self.sizes is not None and len(self.sizes) != len(self.targets):
            yield f"expected a size for each of the {len(self.targets)} names in `to`, found {list(self.sizes)}"
        if self.axes is not None and sorted(self.axes) != list(range(len(self.axes))):
            yield f"transpose: expected every axis once, from 0, found {list(self.axes)}"
        yield from self._problems_of_names()

    def _problems_of_names(self) -> Iterator[str]:
        known = {frozenset(_placeholders(source)) for source in self.sources}
        for name in {name for source in self.sources for name in _placeholders(source)}:
            if not _PLACEHOLDER.fullmatch(name):
                yield f"expected a placeholder such as {{i}} in `from`, found {{{name}}}"
        if len(known) > 1:
            yield f"expected the same placeholders in every name of `from`, found {', '.join(self.sources)}"
        for target in self.targets:
            found = [_NAME_AND_SHIFT.fullmatch(text) for text in _placeholders(target)]
            names = frozenset(match[1] for match in found if match)
            if None in found or {names} != known:
                yield f"expected the placeholders of `from` in {target!r} ({{i}}, {{i-1}}, {{i+1}}), found others"

    @property
    def placeholders(self) -> frozenset[str]:
        """The names that stand for numbers."""
        return frozenset(_placeholders(self.sources[0]))

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the first name in `from` matches."""
        parts, seen = [], set()
        for number, text in enumerate(_BRACES.split(self.sources[0])):
            if number % 2 == 0:
                parts.append(re.escape(text))
            else:
                parts.append(f"(?P={text})" if text in seen else f"(?P<{text}>{_NUMBER})")
                seen.add(text)
        return re.compile("".join(parts))

    def numbers_of(self, name: str) -> Numbers | None:
        """What the placeholders stand for where `name` is the first of `from`; `None` where it isn't."""
        match = self.pattern.fullmatch(name)
        return {key: int(value) for key, value in match.groupdict().items()} if match else None

    def filled(self, text: str, numbers: Numbers) -> str:
        """One of the rule's names, with numbers in place of its placeholders; `ConfigError` where one is below 0."""

        def number(match: re.Match[str]) -> str:
            name, shift = _NAME_AND_SHIFT.findall(match[1])[0]
            value = numbers[name] + int(shift or 0)
            if value < 0:
                raise ConfigError(
                    f"{self.where}: {text!r} would be numbered {value} for "
                    f"{self.filled(self.sources[0], numbers)!r}; correct the number behind the placeholder"
                )
            return str(value)

        return _BRACES.sub(number, text)


@dataclass(frozen=True, kw_only=True)
class NameMapping:
    """All rules of an export; the patterns (shell style) of names that it leaves out; and what `config.json` says.

    `name` is for messages and for the record, `digest` the BLAKE3 of the file that it was read from.
    """

    name: str
    rules: tuple[Rule, ...]
    leave_out: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None


def _placeholders(text: str) -> list[str]:
    return _BRACES.findall(text)
