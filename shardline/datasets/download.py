"""Download a file whose size and SHA-256 are known, from the first mirror that serves it right.

pooch fetches into a temporary file and gives it its name when its SHA-256 is right, tries a mirror again that failed,
and downloads nothing that is there already. A download that was cut off begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from shardline.base.errors import DatasetError

if TYPE_CHECKING:
    import pooch

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    """A file's name below each mirror, its size in bytes, and its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DownloadLimits:
    """How long to wait for a connection and for the next bytes (seconds), and how often to ask a mirror."""

    connect: float = 10
    read: float = 30
    attempts: int = 3


def fetch(file: RemoteFile, mirrors: Sequence[str], folder: Path, limits: DownloadLimits) -> Path:
    """The path of `file` in `folder`, downloaded unless it is there; `DatasetError` says why each mirror failed."""
    import pooch
    from requests.exceptions import RequestException

    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in mirrors:
        source = pooch.Pooch(
            folder,
            f"{mirror.rstrip('/')}/",
            {file.name: file.sha256},
            retry_if_failed=limits.attempts - 1,
        )
        try:
            return Path(source.fetch(file.name, downloader=_Download(file, limits)))
        except (RequestException, ValueError) as error:
            failures.append(f"{source.get_url(file.name)}: {error}")
            print(failures[-1], flush=True)
    raise DatasetError(
        f"no mirror served {file.name} ({file.size} bytes, SHA-256 {file.sha256}):\n  "
        + "\n  ".join(failures)
        + f"\nCheck the network or `mirrors`, or put the file into {folder} yourself."
    )


@dataclass(frozen=True)
class _Download:
    """pooch's downloader over HTTP, for a file of known size: `ValueError` where it is longer or shorter."""

    file: RemoteFile
    limits: DownloadLimits

    def __call__(self, url: str, output_file: str, source: pooch.Pooch) -> None:
        from pooch import HTTPDownloader

        # With `identity`, the mirror sends the file's own bytes, and as many as it announces.
        transfer = HTTPDownloader(
            chunk_size=_CHUNK_BYTES,
            timeout=(self.limits.connect, self.limits.read),
            headers={"Accept-Encoding": "identity"},
        )
        path = Path(output_file)
        path.chmod(0o644)  # a temporary file is its owner's alone; the folder is shared
        with path.open("wb") as stream:
            arriving = _Arriving(stream, self.file.size, url)
            transfer(url, arriving, source)
        if arriving.received < self.file.size:
            raise ValueError(f"expected {self.file.size} bytes, found {arriving.received}")


@dataclass
class _Arriving:
    """A stream that takes at most `size` bytes, and prints a line at every tenth of them."""

    stream: BinaryIO
    size: int
    url: str
    received: int = field(default=0, init=False)

    def write(self, chunk: bytes) -> None:
        tenths = self.received * 10 // self.size
        self.received += len(chunk)
        if self.received > self.size:
            raise ValueError(f"expected {self.size} bytes, found more")
        self.stream.write(chunk)
        if (reached := self.received * 10 // self.size) > tenths:
            print(f"{self.url}: {self.received / 1e6:.1f} of {self.size / 1e6:.1f} MB ({reached}0 %)", flush=True)

    def flush(self) -> None:
        self.stream.flush()
