"""Names that a record can hold: a file's name or an option may be bytes that are no UTF-8, which no JSON can have."""

from __future__ import annotations

from pathlib import Path

from shardline.base.errors import ConfigError


def check_recordable(what: str, text: str | Path) -> None:
    """`ConfigError` where `text`, which is `what` was given or found, is no UTF-8; Python has lone surrogates then."""
    try:
        str(text).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{what}: expected UTF-8, found {str(text)!a}, which no record can name; rename it, or give another"
        ) from error
