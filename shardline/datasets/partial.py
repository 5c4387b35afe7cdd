"""The part of a download that has arrived, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import httpx

from shardline.base import atomic


class PartialFile:
    """`NAME.partial`, and beside it `NAME.partial.json` with the address and validator of what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._origin_file = path.with_name(f"{path.name}.json")

    def offset(self, url: str) -> int:
        """How many bytes of `url` are here: none where the file is another address's, or of unknown origin."""
        return self.path.stat().st_size if self.path.exists() and self._origin().get("url") == url else 0

    def condition(self) -> dict[str, str]:
        """The header that makes a mirror send everything if its file is no longer the one that we have a part of."""
        validator = self._origin().get("validator")
        return {"If-Range": validator} if validator else {}

    def open(self, url: str, response: httpx.Response, start: int) -> BinaryIO:
        """A stream that takes the bytes from `start` on; from 0, what was here is forgotten."""
        if start:
            return self.path.open("ab")
        self.discard()
        # Only a strong validator may stand in If-Range (RFC 9110, 13.1.5). Without one, the checksum decides.
        etag = response.headers.get("ETag", "")
        origin = {"url": url, "validator": etag if etag.startswith('"') else None}
        atomic.write_text(self._origin_file, json.dumps(origin))
        return self.path.open("wb")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._origin_file.unlink(missing_ok=True)

    def _origin(self) -> dict[str, str | None]:
        try:
            origin = json.loads(self._origin_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return origin if isinstance(origin, dict) else {}
