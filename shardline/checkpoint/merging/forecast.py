"""A merge's plan as numbers: what it would read and write, and what that would take. Nothing is changed."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline.base.errors import OutputError
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.merging.execute import ALL_BLOCKS_BYTES, BLOCK_BYTES
from shardline.checkpoint.merging.request import Prepared

_PROBE = 16 << 20
_COPIES_OF_A_BLOCK = 3


def forecast(prepared: Prepared) -> dict[str, Any]:
    """Files, tensors, bytes, and the memory, disk and time that the merge is expected to take.

    The time follows from the output's disk, to which a nameless file of 16 MiB is written, and from reading as much.
    """
    bytes_out = sum(file.size for file in prepared.files)
    names = [tensor.header.name for tensor in prepared.plan.tensors]
    bytes_in = sum(_bytes_of(names, file) for file in prepared.slices.files)
    directory = _existing(prepared.request.output.parent)
    write_rate, free = _write_rate(directory), os.statvfs(directory)
    read_rate = _read_rate([file.path for file in prepared.slices.files])
    reads = bytes_in * (2 if prepared.request.proof else 1) + bytes_out
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return {
        "output": [file.name for file in prepared.files],
        "step": prepared.slices.step,
        "ranks": len(prepared.slices.files),
        "tensors": len(prepared.plan.tensors),
        "bytes_read": bytes_in,
        "bytes_written": bytes_out,
        "disk_free": free.f_bavail * free.f_frsize,
        "fits": bytes_out <= free.f_bavail * free.f_frsize,
        "memory": resident + _COPIES_OF_A_BLOCK * min(prepared.request.workers * BLOCK_BYTES, ALL_BLOCKS_BYTES),
        "seconds": round(bytes_out / write_rate + reads / read_rate / prepared.request.workers, 1),
    }


def _bytes_of(names: Sequence[str], file: FileIndex) -> int:
    positions = file.schema.positions
    return sum(file.schema.headers[positions[name]].size for name in names if name in positions)


def _existing(directory: Path) -> Path:
    return next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.is_dir())


def _write_rate(directory: Path) -> float:
    """Bytes a second."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            started = time.perf_counter()
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
            return _PROBE / (time.perf_counter() - started)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written to: {error.strerror}") from error


def _read_rate(paths: list[Path]) -> float:
    """Bytes a second."""
    count, started = 0, time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            count += len(file.read(_PROBE // len(paths) + 1))
    return count / (time.perf_counter() - started)
