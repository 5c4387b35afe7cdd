r"""Other names for the tensors of an output, by rules from a file: one a line, `PATTERN = REPLACEMENT`.

    # what MindFormers calls it = what Hugging Face does
    model\.layers\.(\d+)\.attention\.wq\.(.*) = model.layers.\1.self_attn.q_proj.\2
    lm_head\.weight = output.weight

A pattern is a regular expression of Python's `re` that must match a whole name; in the replacement, `\1` or `\g<name>`
stands for what a group matched. The first rule that matches a name is taken, and names that no rule matches stay. Lines
that are empty or begin with `#` are left out. Renaming is one to one: two tensors never get the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.file_index import is_parameter_name

_EXPECTED = "rules for names, PATTERN = REPLACEMENT a line"
LARGEST_FILE = 1 << 24
"""Bytes."""
_BETWEEN = re.compile(r"\s=\s")


@dataclass(frozen=True)
class Rule:
    """One line: whatever name `pattern` matches whole becomes `replacement`. `where` is for messages: FILE:LINE."""

    pattern: str
    replacement: str
    where: str = field(default="rename", compare=False)

    def __post_init__(self) -> None:
        try:
            self.regex.sub(self.replacement, "")
        except (re.error, IndexError, RecursionError, OverflowError) as error:
            raise ConfigError(
                f"{self.where}: expected a regular expression and a replacement that fits it: {error}"
            ) from error

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)


class Renamed(NamedTuple):
    """New names by old ones, and the rules that no name was renamed by."""

    names: Mapping[str, str]
    unused: tuple[Rule, ...]


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules in the file at `path`; `ConfigError` where it cannot be read, or as in `parse_rules`."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the rules for names cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path}: expected {_EXPECTED}, found more than {LARGEST_FILE} bytes")
    return parse_rules(content, path)


def parse_rules(content: bytes, path: Path) -> tuple[Rule, ...]:
    """The rules in `content`, the file at `path`; `ConfigError` names the file and the line that is none.

    It doesn't show the line: whoever names a file to a task may not be who may read it.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected {_EXPECTED}, in UTF-8; byte {error.start} is none") from error
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
    rules = tuple(_rule(line, f"{path}:{number}") for number, line in numbered if line and not line.startswith("#"))
    if not rules:
        raise ConfigError(f"{path}: expected {_EXPECTED}, found none")
    return rules


def rename(names: Iterable[str], rules: Sequence[Rule]) -> Renamed:
    """What `names` become by `rules`; `ConfigError` where two become one, or where one becomes no parameter's name."""
    renamed: dict[str, str] = {}
    used: set[int] = set()
    origin: dict[str, str] = {}
    for name in names:
        number, new = _first_match(name, rules)
        if number is not None:
            used.add(number)
            _check_new(name, new, rules[number])
        if new in origin:
            where = rules[number].where if number is not None else "rename"
            raise ConfigError(
                f"{where}: {origin[new]!r} and {name!r} would both be named {new!r}; expected one name for each: make "
                "the pattern narrower, or leave one of them out (--exclude)"
            )
        renamed[name], origin[new] = new, name
    return Renamed(renamed, tuple(rule for number, rule in enumerate(rules) if number not in used))


def _rule(line: str, where: str) -> Rule:
    pattern, *replacements = _BETWEEN.split(line)
    if len(replacements) != 1 or not pattern or not replacements[0]:
        raise ConfigError(f"{where}: expected PATTERN = REPLACEMENT, one = between spaces")
    return Rule(pattern.strip(), replacements[0].strip(), where)


def _first_match(name: str, rules: Sequence[Rule]) -> tuple[int | None, str]:
    for number, rule in enumerate(rules):
        match = rule.regex.fullmatch(name)
        if match is not None:
            return number, match.expand(rule.replacement)
    return None, name


def _check_new(name: str, new: str, rule: Rule) -> None:
    if not is_parameter_name(new):
        raise ConfigError(f"{rule.where}: {name!r} would be named {new!r}, which is no parameter's name; correct it")
