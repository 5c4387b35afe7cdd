"""Element types, by their names in both formats, and the casts between floating-point ones.

All that MindSpore 2.10 or safetensors 0.8 names is here: a merge only moves bytes. NumPy has no bfloat16: its elements
are handled as 16-bit integers, and so is their arithmetic here; those of eight bits are handled by tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardline.checkpoint.formats.small_floats import NON_FINITE, VALUES


@dataclass(frozen=True)
class TensorType:
    """One element type: its name (MindSpore's where it has one), its code in safetensors, and how NumPy holds it.

    `code` is `None` where safetensors has none; `in_ckpt` says whether MindSpore has the type. `exponent` masks the
    exponent's bits within the element, or within each half of a complex one, where the type is floating-point: all of
    them are set exactly in infinities and NaNs. `packed` numbers of fewer than eight bits make an element: shapes count
    elements here, and numbers, in the last dimension, in files.
    """

    name: str
    code: str | None
    storage: np.dtype[np.generic]
    exponent: int | None = None
    in_ckpt: bool = True
    packed: int = 1

    @property
    def itemsize(self) -> int:
        return self.storage.itemsize

    @property
    def is_floating(self) -> bool:
        """Whether elements are floating-point numbers, complex ones included."""
        return self.exponent is not None or self.name in VALUES or self.packed > 1

    @property
    def is_integer(self) -> bool:
        return self.storage.kind in "iu" and not self.is_floating and self.name != "str"

    @property
    def is_castable(self) -> bool:
        """Whether `cast` takes it: floating-point, neither complex nor of fewer than eight bits."""
        return self.is_floating and self.storage.kind != "c" and self.packed == 1


def _declare(name: str, code: str | None, storage: str, exponent: int | None = None) -> TensorType:
    return TensorType(name, code, np.dtype(storage), exponent)


def _only_in_safetensors(name: str, code: str, storage: str, packed: int = 1) -> TensorType:
    return TensorType(name, code, np.dtype(storage), in_ckpt=False, packed=packed)


BFLOAT16 = _declare("BFloat16", "BF16", "<u2", 0x7F80)
FLOAT16 = _declare("Float16", "F16", "<f2", 0x7C00)
FLOAT32 = _declare("Float32", "F32", "<f4", 0x7F80_0000)
FLOAT64 = _declare("Float64", "F64", "<f8", 0x7FF0_0000_0000_0000)
INT4 = _declare("Int4", "I8", "i1")
"""MindSpore's qint4x2: two numbers in a byte. In safetensors it is I8, and the metadata says `NAME: Int4`."""
TEXT = _declare("str", None, "u1")
"""A string in UTF-32LE, which a .ckpt holds with the dimensions [0]. Handled as bytes."""

_TYPES = (
    _declare("Bool", "BOOL", "?"),
    _declare("Int8", "I8", "i1"),
    _declare("Int16", "I16", "<i2"),
    _declare("Int32", "I32", "<i4"),
    _declare("Int64", "I64", "<i8"),
    _declare("UInt8", "U8", "u1"),
    _declare("UInt16", "U16", "<u2"),
    _declare("UInt32", "U32", "<u4"),
    _declare("UInt64", "U64", "<u8"),
    FLOAT16,
    FLOAT32,
    FLOAT64,
    BFLOAT16,
    _declare("Complex64", "C64", "<c8", 0x7F80_0000),
    _declare("Complex128", None, "<c16", 0x7FF0_0000_0000_0000),
    _declare("Float8E4M3FN", "F8_E4M3", "u1"),
    _declare("Float8E5M2", "F8_E5M2", "u1"),
    _declare("HiFloat8", None, "u1"),
    _only_in_safetensors("Float8E8M0", "F8_E8M0", "u1"),
    _only_in_safetensors("Float8E4M3FNUZ", "F8_E4M3FNUZ", "u1"),
    _only_in_safetensors("Float8E5M2FNUZ", "F8_E5M2FNUZ", "u1"),
    _only_in_safetensors("Float6E2M3", "F6_E2M3", "V3", packed=4),
    _only_in_safetensors("Float6E3M2", "F6_E3M2", "V3", packed=4),
    _only_in_safetensors("Float4E2M1", "F4", "u1", packed=2),
    INT4,
    TEXT,
)
BY_NAME = {tensor_type.name: tensor_type for tensor_type in _TYPES}
BY_CODE = {tensor_type.code: tensor_type for tensor_type in _TYPES if tensor_type.code and tensor_type is not INT4}
_BY_STORAGE = {tensor_type.storage: tensor_type for tensor_type in reversed(_TYPES) if tensor_type.storage.kind != "V"}
"""What an array's dtype stands for: the plain type, where others are held alike, for it is the first declared."""
_BLOCK = 1 << 16
"""Elements at a time: what a processor's cache holds, and what temporaries may take."""
CASTS = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}


def type_of(array: NDArray[np.generic]) -> TensorType | None:
    """The element type that an array's dtype stands for; `None` where no checkpoint can hold it."""
    return _BY_STORAGE.get(array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype)


def bits_of(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The elements of `array` as something that compares bit by bit, without a copy."""
    width = array.dtype.itemsize
    as_number = width in (1, 2, 4, 8)
    part = "<u8" if width % 8 == 0 else "u1"
    parts = [(f"part{number}", part) for number in range(width // np.dtype(part).itemsize)]
    return array.view(np.dtype(f"<u{width}") if as_number else np.dtype(parts))


def has_non_finite(elements: NDArray[np.generic], tensor_type: TensorType) -> bool:
    """Whether a NaN or an infinity is among `elements`, one-dimensional and in the type's storage."""
    if not elements.size:
        return False
    if tensor_type.name in NON_FINITE:
        among = NON_FINITE[tensor_type.name]
        return any(among[elements[start : start + _BLOCK]].any() for start in range(0, elements.size, _BLOCK))
    if tensor_type.exponent is None:
        return False
    bits = elements.view(f"<u{tensor_type.itemsize // (2 if tensor_type.storage.kind == 'c' else 1)}")
    mask = bits.dtype.type(tensor_type.exponent)
    masked = np.empty(min(_BLOCK, bits.size), dtype=bits.dtype)
    return any(
        np.bitwise_and(part, mask, out=masked[: part.size]).max() == mask
        for part in (bits[start : start + _BLOCK] for start in range(0, bits.size, _BLOCK))
    )


def cast(elements: NDArray[np.generic], source: TensorType, target: TensorType) -> NDArray[np.generic]:
    """`elements` of the floating-point type `source`, rounded to nearest even, in the storage of `target`."""
    if source == target:
        return elements
    converted = np.empty(elements.size, dtype=target.storage)
    with np.errstate(over="ignore"):
        for start in range(0, elements.size, _BLOCK):
            converted[start : start + _BLOCK] = _cast_block(elements[start : start + _BLOCK], source, target)
    return converted


def _cast_block(elements: NDArray[np.generic], source: TensorType, target: TensorType) -> NDArray[np.generic]:
    if source.name in VALUES:
        elements = VALUES[source.name][elements]
    elif source == BFLOAT16:
        elements = (elements.astype("<u4") << np.uint32(16)).view("<f4")
    return _to_bfloat16(elements) if target == BFLOAT16 else elements.astype(target.storage)


def _to_bfloat16(elements: NDArray[np.generic]) -> NDArray[np.generic]:
    """Round to odd at 32 bits first where there are more, so that rounding twice is rounding once."""
    single = _to_float32_odd(elements) if elements.dtype.itemsize > 4 else elements.astype("<f4")
    bits = np.ascontiguousarray(single).view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    is_nan = (bits & np.uint32(0x7FFF_FFFF)) > np.uint32(0x7F80_0000)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    narrowed: NDArray[np.generic] = np.where(is_nan, quiet, rounded >> np.uint32(16)).astype("<u2")
    return narrowed


def _to_float32_odd(elements: NDArray[np.generic]) -> NDArray[np.generic]:
    """float64 to float32, truncated, with the last bit set where anything was lost."""
    nearest = elements.astype("<f4")
    finite = np.isfinite(elements)
    too_far = finite & (np.abs(nearest.astype("<f8")) > np.abs(elements.astype("<f8")))
    truncated = np.where(too_far, np.nextafter(nearest, np.float32(0)), nearest)
    lost = finite & (truncated.astype("<f8") != elements)
    odd: NDArray[np.generic] = (truncated.view("<u4") | lost.astype("<u4")).view("<f4")
    return odd
