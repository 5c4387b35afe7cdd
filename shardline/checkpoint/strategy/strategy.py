"""What a strategy file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shardline.checkpoint.strategy.layout import Layout

ACCUMULATED = "accu_grads."
"""What begins the names of the sums of gradients over micro-batches, which strategy files list as parameters."""
COMPILER_STAGE_COUNTER = 2
"""`current_stage` in every file that the compiler of MindSpore 2.10 writes after its first compilation."""


@dataclass(frozen=True)
class OperatorStrategy:
    """Into how many parts each dimension of each of an operator's inputs is cut, and the pipeline stage it runs in."""

    stage: int
    strategy: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Strategy:
    """One strategy file. Both mappings keep the file's order.

    `stage` is the pipeline stage, which MindSpore takes from the first operator. `current_stage` is the field of that
    name in the file; despite its name it counts the compiler's passes, and is 1 in files that were merged.
    """

    stage: int
    operators: Mapping[str, OperatorStrategy]
    layouts: Mapping[str, Layout]
    current_stage: int = COMPILER_STAGE_COUNTER
