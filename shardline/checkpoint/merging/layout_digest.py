"""The digest of a file to be, taken while its tensors are written in order: nothing is read again for it."""

from __future__ import annotations

from blake3 import blake3

from shardline.checkpoint.formats.output_file import OutputFile
from shardline.checkpoint.formats.tensor_io import Bytes, placed


class LayoutDigest:
    """BLAKE3 over the bytes of a file laid out as `layout`, a file without a checksum of its own."""

    def __init__(self, layout: OutputFile) -> None:
        self._layout, self._digest, self._position = layout, blake3(), 0
        self._constants = iter(sorted(layout.constants))

    def update(self, tensor: str, start: int, content: Bytes) -> None:
        """Take `content`, the bytes from `start` of `tensor`; `ValueError` unless they are the file's next ones."""
        for offset, part in placed(content, self._layout.extents[tensor], start):
            self._take_constants(offset)
            self._digest.update(part.data)
            self._position = offset + part.nbytes

    def hexdigest(self) -> str:
        """The digest, in hex, when all is there; `ValueError` where bytes are missing."""
        self._take_constants(self._layout.size)
        return self._digest.hexdigest()

    def _take_constants(self, end: int) -> None:
        """Take the constant bytes up to `end`."""
        while self._position < end:
            offset, content = next(self._constants, (None, b""))
            if offset != self._position:
                break
            self._digest.update(content)
            self._position += len(content)
        if self._position != end:
            raise ValueError(f"{self._layout.name}: byte {end} comes next, {self._position} bytes were taken")
