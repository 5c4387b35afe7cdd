"""A StatsD server of the tests' own: a UDP socket, and what it was sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StatsdServer:
    """Listens on a free port of this host."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._arrived = threading.Condition()
        self._lines: list[str] = []
        threading.Thread(target=self._receive, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Airflow's settings to send metrics here."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self.port),
            "AIRFLOW__METRICS__STATSD_PREFIX": "test",
        }

    def gauges(self, beginning: str) -> dict[str, list[float]]:
        """All values that arrived of each gauge whose name, behind the prefix, begins so."""
        with self._arrived:
            lines = list(self._lines)
        found: dict[str, list[float]] = {}
        for line in lines:
            name, _, rest = line.removeprefix("test.").partition(":")
            value, _, kind = rest.partition("|")
            if name.startswith(beginning) and kind == "g":
                found.setdefault(name, []).append(float(value))
        return found

    def wait_for(self, name: str, patience: float) -> bool:
        """Whether a metric of this name has arrived, or does within `patience` seconds."""
        with self._arrived:
            return self._arrived.wait_for(
                lambda: any(line.startswith(f"test.{name}:") for line in self._lines), patience
            )

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        while True:
            try:
                packet = self._socket.recv(65536)
            except OSError:  # closed
                return
            with self._arrived:
                self._lines += packet.decode().splitlines()
                self._arrived.notify_all()


@contextmanager
def statsd_server() -> Iterator[StatsdServer]:
    """Running while the block does."""
    server = StatsdServer()
    try:
        yield server
    finally:
        server.close()
