"""Which options were given, so that each is honoured, or refused by name: none is read and ignored."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from shardline.base.errors import ConfigError


def given_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[str]:
    """The options of `parser` whose values in `arguments` are not their defaults, as they are typed."""
    return [
        action.option_strings[-1]
        for action in parser._actions  # argparse has no other way to list them
        if action.option_strings and getattr(arguments, action.dest, action.default) != action.default
    ]


def refuse_others(given: Collection[str], honoured: Collection[str], reason: str) -> None:
    """`ConfigError` where any of `given` is not among the `honoured`, with the `reason` why it has no part in it."""
    refuse(sorted(set(given) - set(honoured)), reason)


def refuse(options: Collection[str], reason: str) -> None:
    """`ConfigError` with the `reason` where there are any `options`."""
    if options:
        raise ConfigError(f"{', '.join(options)}: {reason}; leave {'it' if len(options) == 1 else 'them'} out")
