"""A version of the model store, copied to an object storage, with every digest checked there.

    UPLOAD_TO/MODEL/VERSION/{model.ckpt, report.json, merge.json, config.json, model.sig, version.json}

The copy has the files of the version's folder, byte for byte. `version.json`, which has every file's digest, is written
last: whoever sees it there has a whole version. Each file is read back before the next one is sent, in parts, so that
memory does not grow with the model. A file appears there once it is whole, where the storage keeps it so, as S3 and
drives do.

What is there already stays: with the digest that it should have, it is not sent again; with another one, that is an
error. So whatever stopped an upload, the next one goes on where it ended. This module knows of the storage what fsspec
says of any; which one it is, and with whose credentials, is Airflow's to say (`plugins/upload.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import ShardlineError, UploadError
from shardline.store.version import DESCRIPTION, SIGNATURE, Version

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PART = 16 << 20
_MOST_PARTS = 9_000  # S3 takes 10,000


@dataclass(frozen=True)
class Place:
    """Where versions of a model go: a folder of `storage`, and how the user knows it."""

    storage: AbstractFileSystem
    root: str
    """What `upload_to` names, as `storage` calls it."""
    model: str
    uri: str
    """The same, as messages say it: without credentials."""

    def file(self, version: Version, name: str) -> tuple[str, str]:
        """A file of `version` there: as the storage calls it, and as messages do."""
        below = f"{self.model}/{version.version}/{name}"
        return f"{self.root.rstrip('/')}/{below}", f"{self.uri.rstrip('/')}/{below}"


def upload(version: Version, place: Place) -> dict[str, Any]:
    """Have all of `version` at `place`; how many files and bytes were sent. `UploadError` names the file that is not.

    Nothing is sent where another version is there already. Afterwards every file there has been read, and has its
    digest.
    """
    described_by_none = [SIGNATURE, DESCRIPTION] if version.signature else [DESCRIPTION]
    digests = {**version.files, **{name: file_digest(version.path / name) for name in described_by_none}}
    place.storage.invalidate_cache()  # a try before, or another process, may have written since
    missing = [name for name, digest in digests.items() if not _is_there(place, version, name, digest)]
    for name in missing:
        _upload_file(place, version, name, digests[name])
    return {
        "uri": place.file(version, "")[1],
        "files": len(digests),
        "files_sent": len(missing),
        "bytes_sent": sum((version.path / name).stat().st_size for name in missing),
    }


def _is_there(place: Place, version: Version, name: str, digest: str) -> bool:
    """Whether the file is at `place` with its `digest`; `UploadError` where one of another digest is."""
    path, uri = place.file(version, name)
    with _explained(uri):
        if not place.storage.exists(path):
            return False
        found = _remote_digest(place.storage, path)
    if found != digest:
        raise UploadError(
            f"{uri}: expected the digest {digest} or no such file, found one of digest {found}: it stays as it is; "
            "remove it there if nobody needs it and clear upload, or upload elsewhere"
        )
    return True


def _upload_file(place: Place, version: Version, name: str, digest: str) -> None:
    """Send a file that is not at `place` yet, and read it back."""
    path, uri = place.file(version, name)
    with _explained(uri):
        if _is_drive(place.storage):
            Path(place.root).stat()  # what is below it is made; a drive that is not mounted is not
        elif place.storage.isdir(place.root):  # it has folders; elsewhere none has to be made, nor a bucket
            place.storage.makedirs(path.rpartition("/")[0], exist_ok=True)
        _send(version.path / name, digest, place.storage, path)
        place.storage.invalidate_cache()
        found = _remote_digest(place.storage, path)
    if found != digest:
        raise UploadError(
            f"{uri}: expected the digest {digest} that was sent, found {found}: it was damaged on its way, or replaced "
            "by another process; remove it there, then clear upload"
        )
    print(f"{uri}: sent and read back, BLAKE3 {digest}", flush=True)


def _send(source: Path, digest: str, storage: AbstractFileSystem, path: str) -> None:
    """Write `source` to `path`, visible once it is complete; nothing where its bytes have not that `digest`."""
    sent = blake3()
    part = max(_PART, -(-source.stat().st_size // _MOST_PARTS >> 20) << 20)
    with source.open("rb") as reader, _appearing(storage, path, part) as writer:
        while block := reader.read(1 << 20):
            sent.update(block)
            writer.write(block)
        if sent.hexdigest() != digest:
            raise UploadError(
                f"{source}: expected the digest {digest} of its promotion, found {sent.hexdigest()}: it was changed "
                "since; restore it, then clear upload"
            )


@contextmanager
def _appearing(storage: AbstractFileSystem, path: str, part: int) -> Iterator[Any]:
    """A file to write, `part` bytes at a time: it is at `path` when the block ends, and not where that raises."""
    if _is_drive(storage):
        # There fsspec would write to /tmp, and copy from there: half of it would be visible meanwhile, and stay.
        with atomic.staged(Path(path)) as staged, staged.open("wb") as writer:
            yield writer
        return
    # The transaction, since closing a file of fsspec publishes what it has got so far, after an error as well.
    with storage.transaction, storage.open(path, "wb", block_size=part) as writer:
        yield writer


def _is_drive(storage: AbstractFileSystem) -> bool:
    """Whether it is this host's own file system."""
    return getattr(storage, "local_file", False)


def _remote_digest(storage: AbstractFileSystem, path: str) -> str:
    digest = blake3()
    with storage.open(path, "rb", block_size=_PART, cache_type="none") as reader:
        while block := reader.read(_PART):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What the libraries of storages raise, each its own, becomes an `UploadError` that names `uri`."""
    try:
        yield
    except ShardlineError:
        raise
    except FileNotFoundError as error:
        raise UploadError(
            f"{uri}: there is no such bucket or folder ({error}); create it, then clear upload"
        ) from error
    except PermissionError as error:
        raise UploadError(
            f"{uri}: permission denied ({error}); the connection in upload_to has to list, read and write there"
        ) from error
    except Exception as error:
        raise UploadError(
            f"{uri}: the storage failed: {type(error).__name__}: {error}; when it answers again, clear upload"
        ) from error
