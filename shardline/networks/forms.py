"""The primitives of MindSpore that can be read from a compiled graph: how each is called, and how it may be cut.

MindIR has all that a primitive takes in one row: tensors, then what its call takes besides, then what its constructor
takes. A primitive without a notation is computed whole; one that is not here at all isn't known to give the same on
every rank (it may draw random numbers or change a parameter), and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from shardline.networks.graph import joining
from shardline.networks.operators import Notation

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Use:
    """One use of a primitive: whole shapes of its tensors and of what it gives, and its constants."""

    shapes: tuple[Shape, ...]
    output: Shape
    arguments: tuple[Any, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """How a primitive is called: so many tensors, then `arguments` constants; its constructor takes `attributes`."""

    tensors: int
    notation: Callable[[Use], Notation | None]
    arguments: int = 0
    attributes: tuple[str, ...] = ()
    renamed: Mapping[str, str] | None = None
    """The constructor's arguments by the names of a primitive's attributes, for those that have them there."""


def whole_notation(shapes: Sequence[Shape], output: Shape) -> Notation:
    """Every dimension whole, on all ranks."""
    letters = iter(ascii_lowercase + ascii_uppercase)
    inputs = tuple("".join(next(letters) for _ in shape) for shape in shapes)
    given = "".join(next(letters) for _ in output)
    return Notation(inputs, given, whole="".join(inputs) + given)


def _letters(shape: Shape) -> str:
    return ascii_lowercase[: len(shape)]


def _none(use: Use) -> Notation | None:
    return None


def _elementwise(use: Use) -> Notation:
    letters = _letters(use.output)
    return Notation((letters,), letters)


def _broadcasting(use: Use) -> Notation:
    """Dimensions of size 1 that are repeated have letters of their own, and are whole."""
    letters, ones = _letters(use.output), iter(ascii_uppercase)
    inputs = tuple(
        "".join(
            letter if size == wanted else next(ones)
            for letter, size, wanted in zip(
                letters[len(letters) - len(shape) :], shape, use.output[len(letters) - len(shape) :], strict=True
            )
        )
        for shape in use.shapes
    )
    whole = "".join(letter for each in inputs for letter in each if letter.isupper())
    return Notation(inputs, letters, whole, order=letters)


def _matmul(use: Use) -> Notation | None:
    """Of two matrices, or of as many as the same leading dimensions say."""
    first, second = use.shapes
    if len(first) != len(second) or first[:-2] != second[:-2]:
        return None
    batch = ascii_lowercase[: len(first) - 2]
    rows, inner, columns = "xyz"
    left = inner + rows if use.attributes["transpose_a"] else rows + inner
    right = columns + inner if use.attributes["transpose_b"] else inner + columns
    return Notation((batch + left, batch + right), batch + rows + columns, order=batch + rows + inner + columns)


def _bias_add(use: Use) -> Notation:
    letters = _letters(use.output)
    return Notation((letters, letters[1]), letters)


def _layer_norm(use: Use) -> Notation:
    letters = _letters(use.output)
    normalised = letters[use.attributes["begin_norm_axis"] :]
    scaled = letters[use.attributes["begin_params_axis"] :]
    return Notation((letters, scaled, scaled), letters, whole="".join(dict.fromkeys(normalised + scaled)))


def _softmax(use: Use) -> Notation:
    letters, axes = _letters(use.output), use.attributes["axis"]
    axes = axes if isinstance(axes, tuple) else (axes,)
    return Notation((letters,), letters, whole="".join(letters[axis] for axis in axes))


def _gather(use: Use) -> Notation | None:
    """The rows of a table."""
    table, ids = use.shapes
    if len(table) != 2 or use.arguments != (0,) or use.attributes["batch_dims"] != 0:
        return None
    letters = ascii_lowercase[: len(ids)]
    return Notation(("vw", letters), f"{letters}w", order=f"{letters}vw")


def _transpose(use: Use) -> Notation:
    letters, (order,) = _letters(use.output), use.arguments
    return Notation((letters,), "".join(letters[dimension] for dimension in order))


def _joining(use: Use) -> Notation:
    return joining(use.shapes[0], use.output)


def _convolution(use: Use) -> Notation:
    """Samples apart; each takes its whole picture, and the whole kernel."""
    return Notation(("nchw", "kxij"), "nkyz", whole="chwkxij")


def _pool(use: Use) -> Notation:
    """Samples and channels apart; each takes its whole picture."""
    return Notation(("nchw",), "ncyz", whole="hw")


_UNARY = Form(1, _elementwise)
_BINARY = Form(2, _broadcasting)
_MATMUL = Form(2, _matmul, attributes=("transpose_a", "transpose_b"))
_POOL = Form(
    1,
    _pool,
    renamed={"kernel_size": "kernel_size", "strides": "strides", "pad_mode": "pad_mode", "format": "data_format"},
)
_REDUCTION = Form(1, _none, arguments=1, attributes=("keep_dims",))
_EXTENDED_REDUCTION = Form(1, _none, arguments=3)

FORMS: Mapping[str, Form] = {
    **dict.fromkeys(
        (
            *("Abs", "Cos", "Erf", "Exp", "GeLU", "Log", "Neg", "ReLU", "Rsqrt", "Sigmoid", "SiLU", "Sin", "Sqrt"),
            *("Square", "Tanh"),
        ),
        _UNARY,
    ),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "RealDiv", "Maximum", "Minimum"), _BINARY),
    **dict.fromkeys(("MatMul", "BatchMatMul"), _MATMUL),
    "BiasAdd": Form(2, _bias_add, attributes=("data_format",)),
    "LayerNorm": Form(3, _layer_norm, attributes=("begin_norm_axis", "begin_params_axis", "epsilon")),
    "Softmax": Form(1, _softmax, attributes=("axis",)),
    "LogSoftmax": Form(1, _softmax, attributes=("axis",)),
    "Gather": Form(2, _gather, arguments=1, attributes=("batch_dims",)),
    "Transpose": Form(1, _transpose, arguments=1),
    "Reshape": Form(1, _joining, arguments=1),
    "Flatten": Form(1, _joining),
    "Conv2D": Form(
        2,
        _convolution,
        renamed={
            "out_channel": "out_channel",
            "kernel_size": "kernel_size",
            "mode": "mode",
            "pad_mode": "pad_mode",
            "pad": "pad",
            "stride": "stride",
            "dilation": "dilation",
            "group": "group",
            "format": "data_format",
        },
    ),
    "MaxPool": _POOL,
    **dict.fromkeys(("Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual"), Form(2, _none)),
    "Select": Form(3, _none),
    "ExpandDims": Form(1, _none, arguments=1),
    "Squeeze": Form(1, _none, attributes=("axis",)),
    "Tile": Form(1, _none, arguments=1),
    "BroadcastTo": Form(1, _none, attributes=("shape",)),
    "Slice": Form(1, _none, arguments=2),
    "StridedSlice": Form(
        1,
        _none,
        arguments=3,
        attributes=("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"),
    ),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin"), _REDUCTION),
    "ReduceSum": Form(1, _none, arguments=1, attributes=("keep_dims", "skip_mode")),
    **dict.fromkeys(("SumExt", "MeanExt"), _EXTENDED_REDUCTION),
}

ALIASES = {"Adds": "Add", "Subs": "Sub", "Muls": "Mul", "Divs": "Div"}
"""Primitives of a tensor and a number, and what does the same with two tensors."""
