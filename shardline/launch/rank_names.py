"""Ranks in words."""

from __future__ import annotations

from collections.abc import Sequence


def named(ranks: Sequence[int]) -> str:
    """`rank 3`, or `ranks 0-3, 7`; `ranks` ascend."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and spans[-1][1] == rank - 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"
