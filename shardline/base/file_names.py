"""Names of files that a document gives: which of them a file can have at all."""

from __future__ import annotations

_MOST_BYTES = 255
"""NAME_MAX of Linux's file systems; asked about a longer name, the kernel fails instead of finding nothing."""
_MOST_BYTES_OF_PATH = 3000
"""What PATH_MAX, 4096, leaves below a folder."""


def is_possible(path: str) -> bool:
    """Whether a file could lie at `path`, relative to some folder: no NUL, no lone surrogate, no part too long."""
    try:
        content = path.encode()
    except UnicodeEncodeError:
        return False
    parts = content.split(b"/")
    return b"\0" not in content and len(content) <= _MOST_BYTES_OF_PATH and max(map(len, parts)) <= _MOST_BYTES


def is_plain(name: str) -> bool:
    """Whether `name` is that of a file beside the document, and possible."""
    return is_possible(name) and "/" not in name and name not in ("", ".", "..")
