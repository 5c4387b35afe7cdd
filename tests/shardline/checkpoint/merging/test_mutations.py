"""Damaged bytes: whatever is changed, a reader returns or raises one of our errors; no crash, no hang, no memory."""

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.base.errors import CheckpointError
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.strategy_file import read_strategy
from tests.shardline.checkpoint.sharding import tensors

STRATEGIES = Path(__file__).parents[3] / "fixtures" / "strategy"
ALLOWANCE = 2 << 20


def genuine(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        text = {"text": "abc"} if suffix == ".ckpt" else {}
        write_checkpoint({**tensors(), **text, "empty": np.zeros((0, 2), np.int8)}, Path(folder) / f"x{suffix}")
        return (Path(folder) / f"x{suffix}").read_bytes()


SEEDS = {
    ".ckpt": [genuine(".ckpt"), (STRATEGIES / "tutorial_sgd.ckpt").read_bytes()],
    ".safetensors": [genuine(".safetensors")],
    ".json": [(STRATEGIES / "tensor_parallel_sgd.json").read_bytes()],
}


@st.composite
def mutated(draw: st.DrawFn, suffix: str) -> bytes:
    """A genuine file with bytes changed, removed, inserted or repeated."""
    content = bytearray(draw(st.sampled_from(SEEDS[suffix])))
    for _ in range(draw(st.integers(1, 6))):
        # Headers stand at the beginning: damage falls there as often as anywhere else.
        position = draw(st.one_of(st.integers(0, 80), st.integers(0, max(len(content) - 1, 0))))
        length = draw(st.integers(0, 12))
        kind = draw(st.sampled_from(["change", "remove", "insert", "repeat", "truncate"]))
        if kind == "change":
            content[position : position + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "remove":
            del content[position : position + length]
        elif kind == "insert":
            content[position:position] = draw(st.binary(max_size=12))
        elif kind == "repeat":
            content[position:position] = content[position : position + length * 8]
        else:
            del content[position:]
    return bytes(content)


def read_all(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    for name in checkpoint:
        assert checkpoint[name].nbytes <= path.stat().st_size


def read_or_refuse(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except CheckpointError as error:
        message = str(error)
    else:
        return
    assert str(path) in message


READERS = [(".ckpt", read_all), (".ckpt", read_strategy), (".safetensors", read_all), (".json", read_strategy)]
READERS += [(".json", ShardSet.read)]


@pytest.mark.parametrize(("suffix", "read"), READERS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_read_or_refused(suffix, read, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(data.draw(mutated(suffix)))
        tracemalloc.start()
        try:
            read_or_refuse(read, path)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < ALLOWANCE


@pytest.mark.soak
@pytest.mark.parametrize(("suffix", "read"), READERS)
@given(data=st.data())
@settings(max_examples=20_000, deadline=None)
def test_damaged_bytes_are_read_or_refused_for_long(suffix, read, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(data.draw(mutated(suffix)))
        read_or_refuse(read, path)
