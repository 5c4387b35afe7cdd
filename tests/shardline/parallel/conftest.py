"""Real ranks, started once for the tests of a module."""

import pytest

from tests.shardline.parallel.ranks import train


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A function: the outcome of `runs` on `world_size` ranks."""
    return lambda world_size, runs: train(tmp_path_factory.mktemp(f"ranks_{world_size}"), world_size, runs)
