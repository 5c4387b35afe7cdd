"""SIGTERM ends a task as Ctrl-C does: by an exception, so that what it staged is removed on the way out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def clean_up_when_terminated() -> Iterator[None]:
    """While the block runs, SIGTERM raises `SystemExit` with the shell's code for it, 143."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
