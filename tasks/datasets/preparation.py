"""Prepared data sets: folders under HOME/data that all runs share, each written once.

A folder's name comes from its source's fingerprint. It is staged beside its place, every file is synced, and one
rename publishes it, under a lock that lets two runs prepare the same data one after the other: the second finds it
done. A prepared folder is used again only when its files still have the digests of its `contents.json`; otherwise it
is prepared anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tasks import atomic
from tasks.datasets import idx
from tasks.datasets.description import SPLITS, DatasetDescription, LabelledImages, Split, describe, split_files
from tasks.datasets.sources import Source
from tasks.errors import DatasetError

_CONTENTS = "contents.json"


def prepare(source_name: str, source: Source, root: Path) -> DatasetDescription:
    """The description of `source`'s data set, prepared under `root` unless it is there already, unchanged."""
    key = f"{source_name}-{hashlib.sha256(source.fingerprint().encode()).hexdigest()[:16]}"
    folder = root / key
    try:
        with _lock(root / f".{key}.lock"):
            found = _prepared_before(source_name, folder)
            if found is not None:
                print(f"{folder}: prepared before and unchanged", flush=True)
                return found
            return _publish(source_name, source.read(), folder)
    except OSError as error:
        raise DatasetError(f"{error.filename or folder}: cannot prepare data there: {error.strerror}") from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` against every other preparation of the same data, waiting for one that runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path}: another run prepares the same data; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepared_before(source_name: str, folder: Path) -> DatasetDescription | None:
    contents = folder / _CONTENTS
    if not contents.exists():
        return None
    try:
        recorded = replace(DatasetDescription.from_json(contents.read_bytes(), contents), directory=str(folder))
        if describe(source_name, folder) == recorded:
            return recorded
        reason = f"its files are not those that {_CONTENTS} describes"
    except DatasetError as error:
        reason = str(error)
    print(f"{folder}: preparing it again: {reason}", flush=True)
    return None


def _publish(source_name: str, splits: dict[Split, LabelledImages], folder: Path) -> DatasetDescription:
    staged = folder.with_name(f".{folder.name}.staged")
    if staged.exists():
        # Whoever holds the lock is the only writer: this was left by a process that was killed.
        shutil.rmtree(staged)
    try:
        for split in SPLITS:
            _write_split(staged, split, splits[split])
        description = replace(describe(source_name, staged), directory=str(folder))
        atomic.write_text(staged / _CONTENTS, description.to_json())
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
        atomic.sync_directory(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    print(f"{folder}: {description.train.count} training and {description.test.count} test images", flush=True)
    return description


def _write_split(directory: Path, split: Split, samples: LabelledImages) -> None:
    images_file, labels_file = split_files(directory, split)
    images_file.parent.mkdir(parents=True)
    idx.write_images(images_file, samples.images)
    idx.write_labels(labels_file, samples.labels)
    for file in (images_file, labels_file):
        _sync(file)
    atomic.sync_directory(images_file.parent)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
