"""A mirror on loopback that answers as it is told to, and small data sets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shardline.datasets.description import IMAGES, LABELS, SPLITS, LabelledImages, Split
from shardline.datasets.idx import write_images, write_labels

Answer = Callable[["Request", bytes], None]


class Request(BaseHTTPRequestHandler):
    """One request to a `Mirror`, which is the server's attribute."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        mirror: Mirror = self.server.mirror  # type: ignore[attr-defined]
        mirror.requests.append(dict(self.headers))
        answer = mirror.script.pop(0) if mirror.script else mirror.default
        self.close_connection = True
        answer(self, mirror.files[self.path.removeprefix("/")])

    def reply(self, status: int, body: bytes, sent: int | None = None, **headers: str) -> None:
        """Send `body`, or only the first `sent` bytes of it although the header announces all."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Mirror:
    """An HTTP server: `script` holds the answers to the next requests, `default` answers all others."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: list[Answer] = []
        self.default: Answer = serve
        self.requests: list[dict[str, str]] = []
        self.stopped = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.server.mirror = self  # type: ignore[attr-defined]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def stop(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def serve(request: Request, body: bytes) -> None:
    """What a good mirror does."""
    request.reply(200, body)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads don't wait before they try again."""
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def mirrors() -> Iterator[Callable[[], Mirror]]:
    """A function that starts one more mirror."""
    started: list[Mirror] = []

    def start() -> Mirror:
        started.append(Mirror())
        return started[-1]

    yield start
    for mirror in started:
        mirror.stop()


@pytest.fixture
def samples() -> dict[Split, LabelledImages]:
    """30 training and 20 test images of noise."""
    generator = np.random.default_rng(7)
    return {
        split: LabelledImages(
            generator.integers(0, 256, (count, 28, 28), np.uint8), generator.integers(0, 10, count, np.uint8)
        )
        for split, count in zip(SPLITS, (30, 20), strict=True)
    }


@pytest.fixture
def idx_folder(tmp_path: Path, samples: dict[Split, LabelledImages]) -> Path:
    """A folder with the four raw IDX files of `samples`."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for split in SPLITS:
        write_images(folder / IMAGES[split], samples[split].images)
        write_labels(folder / LABELS[split], samples[split].labels)
    return folder
