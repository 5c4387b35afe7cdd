"""Inputs that are nearly right: a whole one, with a few of its bytes, or of its values where it is JSON, made odd."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

_NUMBERS = (0, 1, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    *_NUMBERS,
    -1,
    -(2**63),
    2**200,
    0.5,
    -0.0,
    1e308,
    "",
    ".",
    "..",
    "/",
    "../x",
    "a\0b",
    "é",
    "\ud800",
    "x" * 3000,
    "F32",
    "0" * 64,
    [],
    {},
    [[]],
    [0] * 50,
    [-1, 2],
    {"": 0},
)
_TEXTS = ("1e999", "NaN", "Infinity", "-Infinity", "1" * 5000, '{"a":1,"a":2}', "[" * 2000 + "]" * 2000, '"\\ud800"')
"""JSON that Python's writer does not write."""
_PLACE = "\x01place\x01"


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of `seeds`, changed."""
    content = chance.choice(seeds)
    if chance.random() < 0.5 and (changed := _mutated_json(content, chance)) is not None:
        return changed
    for _ in range(1 + int(chance.expovariate(0.7))):
        content = chance.choice(_CHANGES)(content, chance)
    if chance.random() < 0.1:
        other = chance.choice(seeds)
        content = content[: _place(content, chance)] + other[_place(other, chance) :]
    return content


def _mutated_json(content: bytes, chance: random.Random) -> bytes | None:
    """`content` with values changed, where it is JSON, or a .safetensors, whose header is; None for others."""
    rest = b""
    is_safetensors = len(content) > 9 and content[8:9] == b"{"
    if is_safetensors:
        (length,) = struct.unpack("<Q", content[:8])
        content, rest = content[8 : 8 + length], content[8 + length :]
    if content[:1] not in (b"{", b"["):
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    for _ in range(1 + int(chance.expovariate(1))):
        document = _changed(document, chance)
    text = json.dumps(document).replace(json.dumps(_PLACE), chance.choice(_TEXTS))
    changed = text.encode()
    return struct.pack("<Q", len(changed)) + changed + rest if is_safetensors else changed


def _changed(document: Any, chance: random.Random) -> Any:
    """`document` with one value, somewhere, replaced, moved, doubled or left out."""
    if not document or not isinstance(document, dict | list) or chance.random() < 0.1:
        return _other(document, chance)
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = chance.choice(keys)
    what = chance.random()
    if what < 0.6:
        document[key] = _changed(document[key], chance)
    elif what < 0.75:
        del document[key]
    elif isinstance(document, list):
        document.insert(key, copy.deepcopy(chance.choice(document)))
    elif what < 0.9:
        document[key] = copy.deepcopy(document[chance.choice(keys)])
    else:
        document[chance.choice(("", "x", "__metadata__", f"{key}_", "replaced_by"))] = document.pop(key)
    return document


def _other(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool) or chance.random() < 0.5:
        return _PLACE if chance.random() < 0.1 else copy.deepcopy(chance.choice(_VALUES))
    if isinstance(value, int):
        return value + chance.choice((-1, 1, -value, value, 1 << 40))
    if isinstance(value, str) and value:
        place = _place(value, chance)
        return value[:place] + chance.choice(("", "0", "/", "*", "\n", value)) + value[place + 1 :]
    return copy.deepcopy(chance.choice(_VALUES))


def _place(content: Sequence[Any], chance: random.Random) -> int:
    return chance.randrange(len(content) + 1)


def _flip(content: bytes, chance: random.Random) -> bytes:
    place = _place(content, chance)
    return (
        content[:place]
        + bytes(byte ^ (1 << chance.randrange(8)) for byte in content[place : place + 1])
        + content[place + 1 :]
    )


def _overwrite(content: bytes, chance: random.Random) -> bytes:
    place, written = _place(content, chance), _odd_bytes(chance)
    return content[:place] + written + content[place + len(written) :]


def _insert(content: bytes, chance: random.Random) -> bytes:
    place = _place(content, chance)
    return content[:place] + _odd_bytes(chance) + content[place:]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: _place(content, chance)]


def _delete(content: bytes, chance: random.Random) -> bytes:
    place = _place(content, chance)
    return content[:place] + content[place + chance.randint(1, 16) :]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    place = _place(content, chance)
    piece = content[place : place + chance.randint(1, 64)]
    return content[:place] + piece * chance.choice((1, 2, 40)) + content[place:]


def _odd_bytes(chance: random.Random) -> bytes:
    number = chance.choice(_NUMBERS)
    return chance.choice(
        (
            bytes([chance.randrange(256)]),
            struct.pack("<Q", number % 2**64),
            struct.pack("<I", number % 2**32),
            _varint(number),
            _varint(chance.randrange(256)),
            str(number).encode(),
            b"\0",
            b"\xff" * 9,
        )
    )


def _varint(number: int) -> bytes:
    """`number` as protocol buffers write it."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _overwrite, _insert, _cut, _delete, _repeat)
