"""Protocol buffers' wire format, as far as MindSpore's files use it: varints and length-delimited fields.

Reading goes through a `Cursor`, which never takes more bytes than its span has: a length that a damaged file claims
is checked against the span before anything is read.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shardline.base.counts import counted
from shardline.base.errors import CorruptShard

VARINT, LENGTH_DELIMITED = 0, 2
ENCRYPTED = {0x7F3A5ED8: "AES-GCM", 0x7F3A5ED9: "AES-CBC", 0x7F3A5EDA: "SM4-CBC"}
"""What begins a file that MindSpore encrypted, as a little-endian number of 32 bits; and how it did."""
_FIXED_WIDTHS = {1: 8, 5: 4}
_WINDOW = 512


@dataclass
class Cursor:
    """A position in bytes `[position, end)` of `file`, read through `read(offset, length)`."""

    file: Path
    read: Callable[[int, int], bytes]
    position: int
    end: int
    _window: bytes = b""
    _window_start: int = 0

    @property
    def at_end(self) -> bool:
        return self.position >= self.end

    def field(self) -> tuple[int, int]:
        """The next field's number and wire type."""
        key = self.varint()
        return key >> 3, key & 7

    def varint(self) -> int:
        """An unsigned 64-bit varint."""
        start, value = self.position, 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 2**64:
                    break
                return value
        raise self.corrupt("a number is longer than 64 bits", start)

    def span(self) -> Cursor:
        """The length-delimited field that begins here, as a cursor of its own; this one moves past it."""
        start = self.position
        length = self.varint()
        if length > self.end - self.position:
            raise self.corrupt(
                f"expected at most {counted(self.end - self.position, 'more byte')}, found a length of {length}", start
            )
        inner = Cursor(self.file, self.read, self.position, self.position + length, self._window, self._window_start)
        self.position += length
        return inner

    def content(self) -> bytes:
        """All the bytes that are left; the cursor moves to its end."""
        start, self.position = self.position, self.end
        found = self.read(start, self.end - start)
        if len(found) != self.end - start:
            raise self.corrupt(f"expected {counted(self.end - start, 'byte')}, found {len(found)}", start)
        return found

    def text(self) -> str:
        start = self.position
        try:
            return self.content().decode()
        except UnicodeDecodeError as error:
            raise self.corrupt("a name is not UTF-8", start) from error

    def skip(self, wire_type: int) -> None:
        """Move past a field that the reader doesn't know."""
        if wire_type == VARINT:
            self.varint()
        elif wire_type == LENGTH_DELIMITED:
            self.span()
        elif wire_type in _FIXED_WIDTHS and self.position + _FIXED_WIDTHS[wire_type] <= self.end:
            self.position += _FIXED_WIDTHS[wire_type]
        else:
            raise self.corrupt(f"found a field of wire type {wire_type}")

    def corrupt(self, problem: str, position: int | None = None) -> CorruptShard:
        """The error that names the file and the place."""
        return CorruptShard(
            f"{self.file}, byte {self.position if position is None else position}: {problem}; "
            "the file is truncated, damaged or of another kind"
        )

    def _byte(self) -> int:
        if self.position >= self.end:
            raise self.corrupt("expected more bytes, found the end")
        index = self.position - self._window_start
        if not 0 <= index < len(self._window):
            self._window = self.read(self.position, min(_WINDOW, self.end - self.position))
            self._window_start, index = self.position, 0
            if not self._window:
                raise self.corrupt("expected more bytes, found the end")
        self.position += 1
        return self._window[index]


def cursor_over(content: bytes, file: Path) -> Cursor:
    """A cursor over bytes in memory that came from `file`."""
    return Cursor(file, lambda offset, length: content[offset : offset + length], 0, len(content))


def signed(value: int) -> int:
    """A varint as int32 or int64: negative numbers are written as their 64-bit complement."""
    return value - 2**64 if value >= 2**63 else value


def encode_varint(value: int) -> bytes:
    """`value` as a varint; negative numbers as their 64-bit complement."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_number(number: int, value: int) -> bytes:
    """Field `number` holding the integer `value`."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)


def encode_bytes(number: int, content: bytes) -> bytes:
    """Field `number` holding `content`: a string or a message."""
    return encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(len(content)) + content
