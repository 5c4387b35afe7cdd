"""A rank's log, page by page: it may have gigabytes, and may be growing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shardline.page.containment import Contained

MOST_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Page:
    """Bytes `[start, end)` of a log of `size` bytes, as text; what is no UTF-8 is shown as escapes."""

    start: int
    end: int
    size: int
    text: str


def read_page(files: Contained, log: Path, *, start: int | None = None, length: int = 64 * 1024) -> Page:
    """The page of at most `length` bytes from `start`, or the last one; `FileNotFoundError` where there is no log.

    The last page begins with a whole line, unless one line fills it.
    """
    with files.open(log) as file:
        size = os.fstat(file.fileno()).st_size
        length = min(max(length, 1), MOST_BYTES)
        begin = max(size - length, 0) if start is None else min(max(start, 0), size)
        file.seek(begin)
        content = file.read(min(length, size - begin))
    if start is None and begin:
        skipped = content.find(b"\n") + 1
        content, begin = content[skipped:], begin + skipped
    return Page(begin, begin + len(content), size, content.decode("utf-8", "backslashreplace"))


def last_lines(files: Contained, log: Path, count: int, *, width: int = 300) -> list[str]:
    """The last `count` lines of words, each cut to `width` characters: no blank ones, nor a task's result in JSON."""
    try:
        page = read_page(files, log, length=8 * 1024)
    except FileNotFoundError:
        return []
    lines = [line.rstrip() for line in page.text.splitlines() if line.strip() and line[0] != "{"]
    return [line if len(line) <= width else f"{line[:width]} …" for line in lines[-count:]]
