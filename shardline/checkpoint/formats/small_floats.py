"""Floating-point numbers of eight bits: what each of the 256 codes is worth.

OCP 8-bit floating point (E4M3 without infinities, E5M2), its exponents alone (E8M0), the variants without a negative
zero (FNUZ), and Huawei's HiFloat8, whose exponent takes from one bit to four, as the leading "dot" field says.
Sources: OCP OFP8 1.0 and MX 1.0; "Ascend HiFloat8 Format for Deep Learning" (2024). Those that MindSpore 2.10 has were
checked against the codes that it writes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_DOT_FIELDS = ((0b11, 2, 4), (0b10, 2, 3), (0b01, 2, 2), (0b001, 3, 1), (0b0001, 4, 0))
"""HiFloat8: a prefix after the sign, its length in bits, and how many bits of exponent follow."""
_SMALLEST_HIFLOAT8_EXPONENT = -23


def _of_fields(code: int, mantissa_bits: int, bias: int) -> float:
    """A sign, an exponent and a mantissa, as IEEE has them, without special codes."""
    exponent, mantissa = code >> mantissa_bits & (0x7F >> mantissa_bits), code & ((1 << mantissa_bits) - 1)
    scale = 2.0 ** (max(exponent, 1) - bias)
    value = (mantissa / (1 << mantissa_bits) + bool(exponent)) * scale
    return -value if code & 0x80 else value


def _e4m3(code: int) -> float:
    return np.nan if code & 0x7F == 0x7F else _of_fields(code, 3, 7)


def _e5m2(code: int) -> float:
    if code & 0x7C == 0x7C:
        return np.nan if code & 3 else (-np.inf if code & 0x80 else np.inf)
    return _of_fields(code, 2, 15)


def _e4m3_fnuz(code: int) -> float:
    return np.nan if code == 0x80 else _of_fields(code, 3, 8)


def _e5m2_fnuz(code: int) -> float:
    return np.nan if code == 0x80 else _of_fields(code, 2, 16)


def _e8m0(code: int) -> float:
    return np.nan if code == 0xFF else 2.0 ** (code - 127)


def _hifloat8(code: int) -> float:
    special = {0x00: 0.0, 0x80: np.nan, 0x6F: np.inf, 0xEF: -np.inf}
    if code in special:
        return special[code]
    sign, rest = (-1.0 if code & 0x80 else 1.0), code & 0x7F
    for prefix, length, width in _DOT_FIELDS:
        if rest >> (7 - length) == prefix:
            return sign * _with_dot_field(rest, 7 - length, width)
    return sign * 2.0 ** (_SMALLEST_HIFLOAT8_EXPONENT + rest)


def _with_dot_field(rest: int, bits: int, width: int) -> float:
    """The value of the `bits` behind the dot field: an exponent of `width` bits, its sign first, and a mantissa."""
    mantissa_bits = bits - width
    mantissa = (rest & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    if not width:
        return 1 + mantissa
    field = rest >> mantissa_bits & ((1 << width) - 1)
    magnitude = field & ((1 << (width - 1)) - 1) | 1 << (width - 1)
    return (1 + mantissa) * 2.0 ** (-magnitude if field >> (width - 1) else magnitude)


def _table(decode: Callable[[int], float]) -> NDArray[np.float32]:
    values = np.array([decode(code) for code in range(256)], dtype=np.float32)
    values.flags.writeable = False
    return values


VALUES = {
    "Float8E4M3FN": _table(_e4m3),
    "Float8E5M2": _table(_e5m2),
    "Float8E8M0": _table(_e8m0),
    "Float8E4M3FNUZ": _table(_e4m3_fnuz),
    "Float8E5M2FNUZ": _table(_e5m2_fnuz),
    "HiFloat8": _table(_hifloat8),
}
"""By the type's name, the value of every code, exact in float32."""
NON_FINITE = {name: ~np.isfinite(values) for name, values in VALUES.items()}
"""By the type's name, which codes are NaN or infinite."""
