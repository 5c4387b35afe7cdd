"""SIGTERM ends a task as Ctrl-C does: by an exception, so that what it staged is removed on the way out.

A rank in training does better: it finishes its step, saves a shard set together with the others, and leaves with
`exit_codes.STOPPED`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Self


class StopRequest:
    """While entered, in the main thread, SIGTERM sets `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True


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
