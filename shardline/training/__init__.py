"""Training as each rank runs it: one loop for all backends, with saving, resuming and metrics.

For scripts of anybody's, `CommitShardSet` is here: a callback of MindSpore's (`commit_shard_set`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardline.training.commit_shard_set import CommitShardSet

__all__ = ["CommitShardSet"]


def __getattr__(name: str) -> Any:
    """`CommitShardSet`, when it is asked for: it needs MindSpore, which others that import this package do without."""
    if name != "CommitShardSet":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shardline.training.commit_shard_set import CommitShardSet

    return CommitShardSet
