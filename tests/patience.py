"""How long tests wait for what must come before they call it missing: a busy machine takes its time."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 600
PATIENCE_MS = 1000 * PATIENCE_S


def wait_until(condition: Callable[[], Any]) -> None:
    """Return when it holds, which it must within `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
        time.sleep(0.2)
