"""A copy of what is saved, of one step, in memory that is taken once: the first copy is the slowest by far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray


@dataclass(frozen=True)
class Copy:
    """What one tensor held. A `Parameter` of it would be another copy, made while training stands still."""

    name: str
    array: NDArray[Any]

    def asnumpy(self) -> NDArray[Any]:
        """As of a parameter."""
        return self.array

    def to_save(self) -> dict[str, Any]:
        """As `save_checkpoint` takes it; it is not copied again."""
        return {"name": self.name, "data": Tensor.from_numpy(self.array)}


class Snapshot:
    """Copies of the values of what `save_checkpoint` takes: a cell, or a list of names and tensors."""

    def __init__(self, content: Any) -> None:
        self._copies = [Copy(name, tensor.asnumpy().copy()) for name, tensor in _tensors(content)]

    def take(self, content: Any) -> list[Copy]:
        """Copy what `content`, the same tensors as ever, holds now; the copies stay until the next are taken."""
        for copy, (_, tensor) in zip(self._copies, _tensors(content), strict=True):
            np.copyto(copy.array, tensor.asnumpy())
        return self._copies


def _tensors(content: Any) -> list[tuple[str, Any]]:
    if isinstance(content, list):
        return [(each["name"], each["data"]) for each in content]
    return [(each.name, each) for each in content.get_parameters()]
