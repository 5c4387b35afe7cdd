"""Nothing half-written is ever visible: stage, fsync, rename, fsync the folder.

`rename(2)` replaces its target atomically within one file system, so a reader sees the old file or the new one. The
staged file lies beside its target, its name starts with a dot and says which process writes it, and it is removed
whatever goes wrong; what a SIGKILL leaves is removed by the next writer of the same target: at once where that can see
the process to be gone, and where it cannot, on another host or in another container, when nothing has been written to
it for an hour.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardline.base import process_identity

_STAGED = re.compile(r"^\.(?P<target>.+)\.(?P<pid>\d+)(-(?P<started>\d+))?@(?P<place>[^.]*)\.staged$")
_SILENT_SECONDS = 3600
_CURRENT_DIRECTORY, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of renameat2(2)."""


def staged_path(target: Path) -> Path:
    """The path beside `target` under which this process stages it."""
    return target.with_name(f".{target.name}.{process_identity.own()}.staged")


def sync_directory(directory: Path) -> None:
    """Make renames within `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make `directory`, and what is missing above it, durably: a file is lost with the name of its folder."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def flush(path: Path) -> None:
    """Make what was written to the file at `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(staged: Path, target: Path) -> None:
    """Put the finished file `staged` in the place of `target`, durably."""
    flush(staged)
    staged.replace(target)
    sync_directory(target.parent)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a path to write; publish it as `target` when the block ends, remove it when the block raises."""
    make_directory(target.parent)
    remove_abandoned(target)
    path = staged_path(target)
    try:
        yield path
        publish(path, target)
    finally:
        path.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` to `target` as a whole or not at all."""
    with staged(target) as path:
        path.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target`, UTF-8, as a whole or not at all."""
    write_bytes(target, text.encode())


def remove_abandoned(target: Path) -> list[Path]:
    """Remove what writers of `target` that no longer run left staged, files or folders, and return those paths."""
    removed = []
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.staged"):
        match = _STAGED.match(path.name)
        if match and match["target"] == target.name and _is_abandoned(path, match):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def remove_all_abandoned(folder: Path) -> list[Path]:
    """The same of all that is staged in `folder`, of whatever target: its next writer may never come."""
    matches = map(_STAGED.match, sorted(path.name for path in folder.glob(".*.staged")))
    targets = dict.fromkeys(match["target"] for match in matches if match)
    return [path for target in targets for path in remove_abandoned(folder / target)]


def exchange(path: Path, other: Path) -> bool:
    """Let two files or folders swap their names in one step; false where the file system cannot, as NFS."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_CURRENT_DIRECTORY, os.fsencode(path), _CURRENT_DIRECTORY, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(path), None, str(other))


def _is_abandoned(path: Path, match: re.Match[str]) -> bool:
    if match["place"] == process_identity.place():
        pid = int(match["pid"])
        return pid == os.getpid() or str(process_identity.started(pid)) != match["started"]
    try:
        return time.time() - _last_change(path) > _SILENT_SECONDS
    except FileNotFoundError:
        return False


def _last_change(path: Path) -> float:
    """When `path`, or anything in it, was last written to, in seconds of the epoch."""
    return max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
