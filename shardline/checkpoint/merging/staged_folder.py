"""A folder that appears whole: staged beside its place under another name, flushed to disk with all that it holds, then
given its name. What was there before stays until that moment, and is removed after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import OutputError


@contextmanager
def staged_folder(output: Path, replaces: bool) -> Iterator[Path]:
    """A new folder beside `output`, removed when the block ends unless it was published.

    What earlier writers of `output` that no longer run left of theirs is removed. `OutputError` where `output` is
    there and not empty, unless it is to be replaced, and where the block cannot write.
    """
    _restore(output)
    if not replaces and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already, and not empty; choose a new folder, or remove it first")
    folder = atomic.staged_path(output)
    try:
        atomic.remove_abandoned(output)
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier process with this one's number
        folder.mkdir()
        yield folder
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error}; make room or choose another place") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(folder: Path, output: Path) -> None:
    """Give `folder`, whose files are on disk, the name `output`; it then holds what was there before, if anything."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            atomic.sync_directory(path)
    atomic.sync_directory(folder)
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if not output.exists():
        folder.rename(output)
    elif not atomic.exchange(folder, output):
        output.rename(_aside(output))
        folder.rename(output)
        _aside(output).rename(folder)
    atomic.sync_directory(output.parent)


def _aside(output: Path) -> Path:
    """The name of what is replaced for a moment, where two folders cannot swap their names in one step."""
    return output.with_name(f".{output.name}.replaced")


def _restore(output: Path) -> None:
    """Undo what a kill in that moment left."""
    if _aside(output).exists() and not output.exists():
        _aside(output).rename(output)
    shutil.rmtree(_aside(output), ignore_errors=True)
