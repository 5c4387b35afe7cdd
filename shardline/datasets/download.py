"""Download a file whose size and SHA-256 are known, from the first mirror that serves it right.

What arrives is appended to `NAME.partial`, which outlives a failure: the next attempt, in this process or a later one,
asks the same mirror for the rest (`Range`, with `If-Range` where the mirror gave a strong validator; RFC 9110, 13.1.5
and 14). A partial file is used only to resume. It becomes `NAME` by a rename, once its checksum is right; a wrong one
is removed. A resumed file with a wrong checksum is fetched once more from its start: the mirror's copy may have changed
in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from shardline.base import atomic
from shardline.base.errors import DatasetError
from shardline.datasets.partial import PartialFile

_TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_RETRY_AFTER = 60.0


@dataclass(frozen=True)
class RemoteFile:
    """A file's name below each mirror, its size in bytes, and its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Patience:
    """How long to wait: to connect, for the next bytes, and between the attempts at one mirror (seconds)."""

    connect: float = 10
    read: float = 30
    attempts: int = 5
    first_pause: float = 1
    longest_pause: float = 30


class _MirrorFailure(Exception):
    """This mirror will not serve the file."""


class _Transient(Exception):
    """Another attempt may help."""

    def __init__(self, reason: str, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def fetch(file: RemoteFile, mirrors: Sequence[str], folder: Path, patience: Patience) -> Path:
    """The path of `file` in `folder`, downloaded unless it is there; `DatasetError` says why each mirror failed."""
    target = folder / file.name
    if target.exists() and _sha256(target) == file.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = PartialFile(folder / f"{file.name}.partial")
    failures = []
    timeout = httpx.Timeout(patience.read, connect=patience.connect)
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{file.name}"
            try:
                _attempts(patience)(_download, client, url, file, partial)
            except (_MirrorFailure, _Transient, httpx.HTTPError, httpx.InvalidURL) as error:
                failures.append(f"{url}: {_reason(error)}")
                print(failures[-1], flush=True)
            else:
                atomic.publish(partial.path, target)
                partial.discard()
                return target
    raise DatasetError(
        f"no mirror served {file.name} ({file.size} bytes, SHA-256 {file.sha256}):\n  "
        + "\n  ".join(failures)
        + f"\nCheck the network or `mirrors`, or put the file into {folder} yourself."
    )


def _attempts(patience: Patience) -> Retrying:
    backoff = wait_exponential_jitter(
        multiplier=patience.first_pause, max=patience.longest_pause, jitter=patience.first_pause
    )

    def pause(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(backoff(state), error.retry_after if isinstance(error, _Transient) else 0)

    def announce(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        print(f"{state.args[1]}: {_reason(error)}; again in {state.upcoming_sleep:.1f} s", flush=True)

    return Retrying(
        stop=stop_after_attempt(patience.attempts),
        wait=pause,
        retry=retry_if_exception_type((_Transient, httpx.TransportError)),
        before_sleep=announce,
        reraise=True,
    )


def _download(client: httpx.Client, url: str, file: RemoteFile, partial: PartialFile) -> None:
    """One attempt: leave in `partial` all of `file`, verified."""
    offset = partial.offset(url)
    if offset < file.size:
        offset = _transfer(client, url, file, partial, offset)
    found = _sha256(partial.path)
    if found == file.sha256:
        return
    partial.discard()
    if offset:
        raise _Transient(f"the resumed file has a wrong checksum ({found}); starting over")
    raise _MirrorFailure(f"expected SHA-256 {file.sha256}, found {found}")


def _transfer(client: httpx.Client, url: str, file: RemoteFile, partial: PartialFile, offset: int) -> int:
    """Receive the bytes from `offset` on, or all of them where the mirror sends all; return where they start."""
    # Without `identity`, a mirror may compress, and the ranges would be those of the compressed bytes.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-"} | partial.condition()
    with client.stream("GET", url, headers=headers) as response:
        start = _start(response, file, partial, offset)
        received = start
        with partial.open(url, response, start) as stream:
            for chunk in _with_progress(response.iter_raw(), file, url, start):
                received += len(chunk)
                if received > file.size:
                    partial.discard()
                    raise _MirrorFailure(f"expected {file.size} bytes, found more")
                stream.write(chunk)
    if received < file.size:
        raise _Transient(f"the connection closed after {received} of {file.size} bytes")
    return start


def _start(response: httpx.Response, file: RemoteFile, partial: PartialFile, offset: int) -> int:
    """The position in the file of the response's first byte; raises unless the response brings part of `file`."""
    status = f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
    if response.status_code in _TRANSIENT_STATUSES:
        raise _Transient(status, _retry_after(response))
    if response.status_code == 200:
        length = response.headers.get("Content-Length", str(file.size))
        if length != str(file.size):
            kind = response.headers.get("Content-Type", "unknown type")
            raise _MirrorFailure(f"expected {file.size} bytes, the mirror announces {length} ({kind})")
        return 0
    if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return offset
    if response.status_code in (206, 416):
        partial.discard()
        raise _Transient(f"{status}: the mirror cannot resume at byte {offset}; starting over")
    raise _MirrorFailure(status)


def _retry_after(response: httpx.Response) -> float:
    """The pause that the mirror asks for, as a number of seconds; a date is ignored in favour of our own pauses."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_RETRY_AFTER) if asked.isdecimal() else 0


def _with_progress(chunks: Iterator[bytes], file: RemoteFile, url: str, start: int) -> Iterator[bytes]:
    """Pass `chunks` on, and print a line at every tenth of the file."""
    received, printed = start, start * 10 // file.size
    for chunk in chunks:
        received += len(chunk)
        if received * 10 // file.size > printed:
            printed = received * 10 // file.size
            print(f"{url}: {received / 1e6:.1f} of {file.size / 1e6:.1f} MB ({printed * 10} %)", flush=True)
        yield chunk


def _reason(error: BaseException | None) -> str:
    return str(error) or type(error).__name__


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
