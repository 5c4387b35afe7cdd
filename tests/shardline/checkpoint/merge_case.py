"""A merge to be broken: everything that it must not be fooled by starts from this case, one test each.

Bad input ends with one error that says what and where, the old output untouched and nothing else left behind.
"""

from pathlib import Path

import pytest

from shardline.base.errors import CheckpointError, ConfigError
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.merging.merge import Merged, merge
from shardline.checkpoint.merging.request import MergeRequest
from tests.shardline.checkpoint.sharding import LAYOUTS, save_shards, save_strategy, slices_of, tensors

NAME = "checkpoint-1_20.ckpt"


class Case:
    """A folder with slices, their strategy, and an output that an earlier merge left."""

    def __init__(self, path: Path) -> None:
        self.path, self.shards = path, path / "shards"
        self.strategy = save_strategy(path / "strategy.ckpt")
        save_shards(self.shards, tensors())
        self.output = path / "out" / "model.ckpt"
        save_shards(path / "old", tensors(seed=9))
        merge(MergeRequest(path / "old", (self.strategy,), self.output))
        self.before = self.snapshot()

    def file(self, rank: int, name: str = NAME) -> Path:
        return self.shards / f"rank_{rank}" / name

    def snapshot(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.parent.iterdir()}

    def merge(self, **options: object) -> Merged:
        return merge(MergeRequest(self.shards, (self.strategy,), self.output, **options))

    def refused(self, error: type[CheckpointError] | type[ConfigError], message: str, **options: object) -> None:
        with pytest.raises(error, match=message):
            self.merge(**options)
        assert self.snapshot() == self.before

    def rewrite(self, rank: int, **changes: object) -> None:
        """Save one rank's file again, with some tensors other than they were; `None` removes one."""
        arrays = {**slices_of(tensors(), LAYOUTS, rank), **changes}
        write_checkpoint({name: array for name, array in arrays.items() if array is not None}, self.file(rank))

    def flip(self, rank: int, position: int) -> None:
        content = bytearray(self.file(rank).read_bytes())
        content[position] ^= 1
        self.file(rank).write_bytes(content)
