"""The digests of a file and of the tensors in it, taken together in one reading of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from shardline.base.digest import read_through
from shardline.checkpoint.formats.output_file import OutputFile


class Piece(NamedTuple):
    """Bytes `[offset, offset + length)` of a file, which are `tensor`'s."""

    offset: int
    length: int
    tensor: str

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True)
class Contents:
    """BLAKE3 digests, in hex: of the whole file, of each tensor, and of `rest`, all bytes that are no tensor's."""

    size: int
    digest: str
    tensors: Mapping[str, str]
    rest: str


def read_contents(path: Path, pieces: Sequence[Piece]) -> Contents:
    """Digest the file at `path`, whose tensors lie in `pieces`, as `in_file_order` gives them.

    Reads 1 MiB at a time, each byte once. A tensor whose bytes are not all there has no digest. `CorruptShard` where
    the file cannot be read.
    """
    tally = _Tally(pieces)
    read_through(path, tally.update)
    return tally.contents()


def in_file_order(pieces: Iterable[Piece]) -> list[Piece]:
    """`pieces` by offset; `ValueError` where two of them overlap, or one begins before the file."""
    ordered = sorted(pieces, key=lambda piece: (piece.offset, piece.end))
    end = 0
    for piece in ordered:
        if piece.length < 0 or piece.offset < end:
            raise ValueError(f"the bytes of {piece.tensor!r} at {piece.offset} overlap with what precedes them")
        end = piece.end
    return ordered


def pieces_of(layout: OutputFile) -> list[Piece]:
    """Where the tensors of a file laid out as `layout` lie."""
    return in_file_order(Piece(*extent, name) for name, extents in layout.extents.items() for extent in extents)


def rest_of(layout: OutputFile, trailer: bytes) -> str:
    """The digest of all that is no tensor's in a file laid out as `layout` that ends in `trailer`."""
    digest = blake3()
    for _, constant in sorted(layout.constants):
        digest.update(constant)
    digest.update(trailer)
    return digest.hexdigest()


class _Tally:
    """The digests of a file's bytes so far. Only one tensor's is open at a time, however many there are."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces: Iterator[Piece] = iter(pieces)
        self._piece: Piece | None = None
        self._position = 0
        self._whole, self._rest, self._tensor = blake3(), blake3(), blake3()
        self._tensors: dict[str, str] = {}
        self._begin_next_piece()

    def update(self, content: memoryview) -> None:
        self._whole.update(content)
        begin, end = self._position, self._position + len(content)
        while self._position < end:
            piece, start = self._piece, self._position
            if piece is not None and start >= piece.offset:
                self._position = min(end, piece.end)
                self._tensor.update(content[start - begin : self._position - begin])
                if self._position == piece.end:
                    self._begin_next_piece()
            else:
                self._position = end if piece is None else min(end, piece.offset)
                self._rest.update(content[start - begin : self._position - begin])

    def contents(self) -> Contents:
        return Contents(self._position, self._whole.hexdigest(), self._tensors, self._rest.hexdigest())

    def _begin_next_piece(self) -> None:
        """Go to the next piece that has any bytes; a tensor of which no more follow has its digest."""
        while True:
            ended, self._piece = self._piece, next(self._pieces, None)
            if ended is not None and (self._piece is None or self._piece.tensor != ended.tensor):
                self._tensors[ended.tensor] = self._tensor.hexdigest()
                self._tensor = blake3()
            if self._piece is None or self._piece.length:
                return
