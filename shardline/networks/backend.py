"""What a network may ask of whatever computes it: the `Backend` protocol, and no more.

Its implementations, which know MindSpore and how ranks are sharded, are in `shardline.parallel`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from shardline.networks.operators import Operator


class Backend(Protocol):
    """One rank's way of computing a network."""

    @property
    def takes_cells(self) -> bool:
        """Whether MindSpore itself computes a cell here, sharded or not; else it takes operators alone."""

    def region(self, parameter: str, shape: Sequence[int]) -> tuple[slice, ...]:
        """The part of `parameter`, of whole shape `shape`, that this rank creates."""

    def primitive(self, operator: Operator) -> Callable[..., Any]:
        """What computes `operator`, called with its inputs."""

    def cell(self, operators: Sequence[Operator], seed: int) -> Any:
        """The `mindspore.nn.Cell` of `operators`, with this rank's slices of the parameters.

        `seed` alone decides their initial values.
        """
