"""Functions of NumPy arrays in a graph: MindSpore calls them when their tensors are there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mindspore import ops
from numpy.typing import NDArray

Shape = tuple[int, ...]


def in_graph(function: Callable[..., Any], tensors: int, shapes: Sequence[Shape], dtype: Any = None) -> Any:
    """The primitive that calls `function` with `tensors` arrays, and gives what it gives: arrays of `shapes`.

    One array for one shape, else a tuple of them; C-contiguous, of `dtype`, which is the first tensor's unless given.
    A graph calls its functions in the order of its execution. `Custom` asks a function's signature how many tensors it
    takes, and knows nothing of `*tensors`; a tensor without dimensions it gives as Python's number.
    """

    def called(*arrays: Any) -> Any:
        return function(*map(_array, arrays))

    kind = inspect.Parameter.POSITIONAL_ONLY
    signature = inspect.Signature([inspect.Parameter(f"x{index}", kind) for index in range(tensors)])
    setattr(called, "__signature__", signature)  # noqa: B010 - mypy knows no such attribute of functions
    many = len(shapes) > 1

    def shape_of(*_: Any) -> Any:
        return tuple(map(list, shapes)) if many else list(shapes[0])

    def dtype_of(first: Any, *_: Any) -> Any:
        found = dtype or first
        return (found,) * len(shapes) if many else found

    return ops.Custom(called, out_shape=shape_of, out_dtype=dtype_of, func_type="pyfunc")


def _array(tensor: Any) -> NDArray[Any]:
    if isinstance(tensor, np.ndarray):
        return tensor
    return np.array(tensor, np.float32 if isinstance(tensor, float) else np.int32)
