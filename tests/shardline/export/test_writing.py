"""What is written is what NumPy makes of the parameters; and the proof finds what is not."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from shardline.base.errors import ProofError
from shardline.base.progress import Meter
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.formats.output_file import layout_output
from shardline.checkpoint.formats.tensor_types import BFLOAT16
from shardline.export import writing
from shardline.export.mapping import NameMapping, Rule
from shardline.export.targets import targets_of
from shardline.export.writing import prove_file, write_file


def exported(folder: Path, tensors: dict, rules: list[Rule], suffix=".ckpt", types=None) -> Path:
    """The file that `rules` make of `tensors`, written and proved."""
    write_checkpoint(tensors, folder / f"m{suffix}", types)
    source = read_checkpoint(folder / f"m{suffix}")
    targets = targets_of(NameMapping(name="m", rules=tuple(rules)), source.index.schema.headers).tensors
    (layout,) = layout_output("out.safetensors", [target.header for target in targets], "safetensors")
    write_file(layout, folder, targets, source, Meter())
    prove_file(folder / layout.name, targets, source, Meter())
    return folder / layout.name


@st.composite
def cases(draw):
    """Shapes of what is joined, the axis, the order of axes after it, the axis of the split and its sizes."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 4), min_size=2, max_size=3).filter(any))
    shapes = [(*shape[:axis], length, *shape[axis + 1 :]) for length in lengths]
    axes = draw(st.permutations(range(len(shape))))
    split = draw(st.integers(0, len(shape) - 1))
    size = sum(lengths) if axes[split] == axis else shape[axes[split]]
    first = draw(st.integers(0, size))
    return shapes, axis, tuple(axes), split, (first, size - first)


@settings(max_examples=60)
@given(cases(), st.integers(1, 64))
def test_joining_reordering_and_splitting_are_numpys(case, tile_bytes):
    shapes, axis, axes, split, sizes = case
    arrays = {f"p{n}": np.random.default_rng(n).standard_normal(shape).astype("f4") for n, shape in enumerate(shapes)}
    rule = Rule(sources=tuple(arrays), join=axis, axes=axes, split=split, sizes=sizes, targets=("a", "b"))
    expected = np.split(np.concatenate([*arrays.values()], axis).transpose(axes), [sizes[0]], split)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "TILE_BYTES", tile_bytes)
        found = load_file(exported(Path(folder), arrays, [rule], suffix=".safetensors"))
    for name, array in zip(("a", "b"), expected, strict=True):
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_the_file_is_this_to_the_byte(tmp_path):
    rule = Rule(sources=("w",), transpose=True, targets=("v",))
    out = exported(tmp_path, {"w": np.array([[1, 2, 3], [4, 5, 6]], np.int16)}, [rule])
    header = b'{"__metadata__":{"format":"ms"},"v":{"dtype":"I16","shape":[3,2],"data_offsets":[0,12]}}'
    assert out.read_bytes() == len(header).to_bytes(8, "little") + header + bytes.fromhex("010004000200050003000600")


def test_bfloat16_keeps_its_bits_whatever_they_are(tmp_path):
    bits = np.array([[0x7FC1, 0x3F80, 0xFF80], [0x0001, 0x8000, 0x7F81]], np.uint16)
    rules = [Rule(sources=("w", "x"), join=1, transpose=True, targets=("v",))]
    out = exported(tmp_path, {"w": bits, "x": bits[:, :1]}, rules, types={"w": BFLOAT16, "x": BFLOAT16})
    assert b'"dtype":"BF16","shape":[4,2]' in out.read_bytes()
    assert np.array_equal(read_checkpoint(out)["v"], np.concatenate([bits, bits[:, :1]], 1).T)


def test_scalars_and_empty_tensors_are_moved_too(tmp_path):
    names = [Rule(sources=(name,), targets=(f"new.{name}",)) for name in ("scalar", "empty")]
    out = exported(tmp_path, {"scalar": np.array(7, np.int32), "empty": np.empty((0, 3), "f4")}, names)
    found = load_file(out)
    assert (found["new.scalar"].item(), found["new.empty"].shape) == (7, (0, 3))


def test_the_proof_names_an_element_that_is_another(tmp_path):
    rule = Rule(sources=("w",), transpose=True, targets=("v",))
    out = exported(tmp_path, {"w": np.arange(6, dtype="f4").reshape(2, 3)}, [rule])
    source = read_checkpoint(tmp_path / "m.ckpt")
    targets = targets_of(NameMapping(name="m", rules=(rule,)), source.index.schema.headers).tensors
    content = bytearray(out.read_bytes())
    content[-8] ^= 1
    out.write_bytes(content)
    with pytest.raises(ProofError, match=r"out.safetensors: 'v', element \[2, 0\], is not that of w"):
        prove_file(out, targets, source, Meter())


def test_memory_holds_a_few_tiles_whatever_the_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "TILE_BYTES", 1 << 12)
    asked = []
    read = writing.Checkpoint.read
    monkeypatch.setattr(writing.Checkpoint, "read", lambda self, name, box: asked.append(box) or read(self, name, box))
    rule = Rule(sources=("w",), transpose=True, targets=("v",))
    exported(tmp_path, {"w": np.ones((128, 128), "f4")}, [rule])
    assert max(np.prod(box.sizes) * 4 for box in asked) == 1 << 12
