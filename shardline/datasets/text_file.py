"""The source `text`: a file of the user's, any bytes. Its last tenth is held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from shardline.base.errors import DatasetError
from shardline.datasets.description import Split
from shardline.datasets.standard_library import HELD_OUT


@dataclass(frozen=True)
class TextFile:
    """A file, cut in two where its last tenth begins, or where the line begins that is cut there, if it is short."""

    path: Path

    def fingerprint(self) -> str:
        return str(blake3(self._content()).hexdigest())

    def read(self) -> dict[Split, bytes]:
        content = self._content()
        tenth = len(content) // HELD_OUT
        cut = len(content) - tenth
        cut = content.rfind(b"\n", cut - tenth, cut) + 1 or cut
        return {"train": content[:cut], "test": content[cut:]}

    def _content(self) -> bytes:
        try:
            content = self.path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: no path can hold a null character
            reason = error.strerror if isinstance(error, OSError) else error
            raise DatasetError(
                f"{self.path}: expected a readable file: {reason}; check text_file, on the machine that runs this task"
            ) from error
        if len(content) < 2 * HELD_OUT:
            raise DatasetError(
                f"{self.path}: expected a text of at least {2 * HELD_OUT} bytes, found {len(content)}; check text_file"
            )
        return content
