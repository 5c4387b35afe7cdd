"""One piece of work at a time, done behind the training by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Behind:
    """Does what it is given while its caller goes on; what that raises comes out where the caller next meets it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Begin `work`, when what was begun before is done."""
        self.finish()
        # A process that ends by an error doesn't wait for it: what it was writing is no shard set then.
        self._thread = threading.Thread(target=self._do, args=(work,), name="saving", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for what was begun last, and raise what it raised."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is met
            self._error = error
