"""A rank's log, page by page: it may have gigabytes, and may be growing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shardline.page.containment import Contained

MOST_BYTES = 1024 * 1024
_LONGEST = 4
"""Bytes of a character in UTF-8."""


@dataclass(frozen=True)
class Page:
    """Bytes `[start, end)` of a log of `size` bytes, as text; what is no UTF-8 is shown as escapes."""

    start: int
    end: int
    size: int
    text: str


def read_page(files: Contained, log: Path, *, start: int | None = None, length: int = 64 * 1024) -> Page:
    """The page of about `length` bytes from `start`, or the last one; `FileNotFoundError` where there is no log.

    The last page begins with a whole line, unless one line fills it. No character is cut in two: a page ends after the
    one that its end falls into, or before it where the rest of it is not written yet.
    """
    with files.open(log) as file:
        size = os.fstat(file.fileno()).st_size
        length = min(max(length, 1), MOST_BYTES)
        begin = max(size - length, 0) if start is None else min(max(start, 0), size)
        file.seek(begin)
        content = file.read(min(length + _LONGEST - 1, size - begin))
    content = content[: _end_of_character(content, length)]
    if start is None and begin:
        skipped = content.find(b"\n") + 1
        content, begin = content[skipped:], begin + skipped
    return Page(begin, begin + len(content), size, content.decode("utf-8", "backslashreplace"))


def _end_of_character(content: bytes, length: int) -> int:
    """Where to end a page of `length` bytes of `content`, which goes on for a few more."""
    end = min(length, len(content))
    for back in range(1, min(_LONGEST, end + 1)):
        lead = content[end - back]
        if lead >= 0xC0:  # the first byte of a character of 2, 3 or 4, so many as it has leading ones
            size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            begin, following = end - back, content[end - back + 1 : end - back + size]
            if size <= back or any(byte & 0xC0 != 0x80 for byte in following):
                return end  # it ends here, or is none
            return begin + size if len(following) == size - 1 else begin or end
        if lead < 0x80:
            return end
    return end


def last_lines(files: Contained, log: Path, count: int, *, width: int = 300) -> list[str]:
    """The last `count` lines of words, each cut to `width` characters: no blank ones, nor a task's result in JSON."""
    try:
        page = read_page(files, log, length=8 * 1024)
    except FileNotFoundError:
        return []
    lines = [line.rstrip() for line in page.text.splitlines() if line.strip() and line[0] != "{"]
    return [line if len(line) <= width else f"{line[:width]} …" for line in lines[-count:]]
