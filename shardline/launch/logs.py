"""The log folder of a launch, and following a log while it grows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from shardline.base.counts import counted
from shardline.base.json_object import object_in

_LINE_LIMIT = 64 * 1024
_CHUNK = 1024 * 1024
_LAST_LINES = 20


def set_aside(logs: Path) -> Path | None:
    """Move the log folder of an earlier try, log_output/NAME, to log_output/earlier/K/NAME, K from 1; return where."""
    if not logs.exists():
        return None
    number = 1
    while (target := logs.parent / "earlier" / str(number) / logs.name).exists():
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    return logs.rename(target)


def last_lines(log: Path, count: int, *, width: int = 500) -> list[str]:
    """The last `count` lines of `log` that aren't blank, each cut to `width` characters; none if it doesn't exist."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _CHUNK))
            content = stream.read()
    except FileNotFoundError:
        return []
    lines = [line.rstrip() for line in content.decode("utf-8", "backslashreplace").splitlines() if line.strip()]
    return [line if len(line) <= width else f"{line[:width]} …" for line in lines[-count:]]


@dataclass
class Follower:
    """Copies a growing log to a stream, line by line, and keeps back the newest line that is a JSON object.

    That line is a task's result. It belongs behind everything else, whatever a library prints at exit, so `result` has
    it and the stream doesn't. Bytes that aren't UTF-8 are shown as escapes; a line is cut at 64 KiB.
    A log that may grow without end is copied up to `most` bytes.
    """

    log: Path
    stream: BinaryIO
    most: int | None = None
    """How many bytes are copied; of what comes after them, the last lines at the end."""
    result: dict[str, Any] | None = None
    _offset: int = 0
    _inode: int = 0
    _held: int | None = None
    _copied: int = 0
    _partial: bytearray = field(default_factory=bytearray)
    _dropped: int = 0

    def follow(self) -> None:
        """Copy the lines that have been completed since the last call."""
        while not self._is_full() and (chunk := self._read()):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                self._append(end)
                self._emit()
            self._append(rest)
        self.stream.flush()

    def finish(self) -> None:
        """Copy the rest, a last line without an end too."""
        self.follow()
        if self._partial:
            self._emit()
        if self._is_full():
            self._show_end()
        self.stream.flush()
        self._hold(None)

    def _is_full(self) -> bool:
        return self.most is not None and self._copied >= self.most

    def _show_end(self) -> None:
        self.stream.write(f"… (the rest is in {self.log}; it ends so:)\n".encode())
        for line in last_lines(self.log, _LAST_LINES):
            self.stream.write(line.encode() + b"\n")

    def _read(self) -> bytes:
        try:
            with self.log.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if inode != self._inode:  # a bounded log that outgrew its bounds (`bounded_log`) is a new file
                    self._inode, self._offset = inode, 0
                    self._hold(stream)
                stream.seek(self._offset)
                chunk = stream.read(_CHUNK)
        except FileNotFoundError:
            return b""
        self._offset += len(chunk)
        self._copied += len(chunk)
        return chunk

    def _hold(self, stream: BinaryIO | None) -> None:
        """Keep the file open that is read, so that no later one gets its inode's number."""
        if self._held is not None:
            os.close(self._held)
        self._held = None if stream is None else os.dup(stream.fileno())

    def _append(self, part: bytes) -> None:
        room = max(0, _LINE_LIMIT - len(self._partial))
        self._partial += part[:room]
        self._dropped += len(part[room:])

    def _emit(self) -> None:
        line = self._partial.decode("utf-8", "backslashreplace")
        if self._dropped:
            line += f" … (cut: {counted(self._dropped, 'more byte')} in {self.log})"
        self._partial.clear()
        self._dropped = 0
        document = object_in(line) if line.startswith("{") else None
        if document is None:
            self.stream.write(line.encode() + b"\n")
            return
        if self.result is not None:
            self.stream.write(json.dumps(self.result).encode() + b"\n")
        self.result = document
