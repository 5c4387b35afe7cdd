"""A copy of what is saved, of one step, in memory that is taken once: the first copy is the slowest by far."""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Parameter, Tensor


class Snapshot:
    """Copies of the values of what `save_checkpoint` takes: a cell, or a list of names and tensors."""

    def __init__(self, content: Any) -> None:
        self._arrays = {name: tensor.asnumpy().copy() for name, tensor in _tensors(content)}

    def take(self, content: Any) -> list[Parameter]:
        """Copy what `content`, the same tensors as ever, holds now; the copies stay until the next are taken."""
        for name, tensor in _tensors(content):
            np.copyto(self._arrays[name], tensor.asnumpy())
        return [Parameter(Tensor.from_numpy(array), name=name) for name, array in self._arrays.items()]


def _tensors(content: Any) -> list[tuple[str, Any]]:
    if isinstance(content, list):
        return [(each["name"], each["data"]) for each in content]
    return [(each.name, each) for each in content.get_parameters()]
