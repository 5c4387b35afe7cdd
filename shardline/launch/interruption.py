"""Being told to stop: by a signal, or by the death of the parent."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from types import FrameType, TracebackType

from shardline.base import parent_death
from shardline.launch.diagnosis import signal_name

# Not SIGTERM: the kernel also sends it when only the *thread* that started us ends, which is no reason to stop.
_PARENT_DEATH = signal.SIGUSR2


@dataclass
class Interruption:
    """While entered, SIGTERM, SIGINT, SIGHUP and the parent's death set `reason` instead of ending the process."""

    reason: str = ""
    _parent: int = field(default_factory=os.getppid)
    _handlers: dict[int, signal._HANDLER] = field(default_factory=dict)

    def __enter__(self) -> Interruption:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._on_signal)
        self._handlers[_PARENT_DEATH] = signal.signal(_PARENT_DEATH, self._on_parent_death)
        parent_death.send_on_parent_death(_PARENT_DEATH)
        self._look_at_parent()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        parent_death.send_on_parent_death(0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.reason = f"stopped by {signal_name(number)}"

    def _on_parent_death(self, _number: int, _frame: FrameType | None) -> None:
        self._look_at_parent()

    def _look_at_parent(self) -> None:
        if os.getppid() != self._parent:
            self.reason = "the process that started this launch has ended"
