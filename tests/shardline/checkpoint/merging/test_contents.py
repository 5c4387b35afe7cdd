"""One reading of a file gives its digest and those of the tensors in it."""

from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from shardline.base import digest as digests
from shardline.base.errors import CorruptShard
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.output_file import layout_output
from shardline.checkpoint.formats.tensor_types import FLOAT32
from shardline.checkpoint.merging.contents import Piece, in_file_order, pieces_of, read_contents, rest_of


def digest(content: bytes) -> str:
    return blake3(content).hexdigest()


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[list[Piece], bytes]:
    """Tensors in several pieces each, some of no bytes, with gaps between them; and the file."""
    pieces, position = [], draw(st.integers(0, 5))
    for number in range(draw(st.integers(0, 6))):
        for length in draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)):
            pieces.append(Piece(position, length, f"t{number}"))
            position += length + draw(st.integers(0, 3))
    size = position + draw(st.integers(0, 4))
    return pieces, draw(st.binary(min_size=size, max_size=size))


@given(laid_out(), st.integers(1, 7))
def test_the_digests_are_those_of_each_taken_by_itself(tmp_path_factory, case, buffer):
    pieces, content = case
    path = tmp_path_factory.mktemp("contents") / "file"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(digests, "_BUFFER", buffer)
        found = read_contents(path, pieces)
    expected: dict[str, bytes] = {}
    rest = bytearray(content)
    for piece in reversed(pieces):
        expected[piece.tensor] = content[piece.offset : piece.end] + expected.get(piece.tensor, b"")
        del rest[piece.offset : piece.end]
    assert (found.size, found.digest, found.rest) == (len(content), digest(content), digest(bytes(rest)))
    assert found.tensors == {name: digest(held) for name, held in expected.items()}


def test_a_tensor_that_is_not_all_there_has_no_digest(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"abcdef")
    assert read_contents(tmp_path / "file", [Piece(0, 2, "a"), Piece(2, 9, "b")]).tensors == {"a": digest(b"ab")}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(CorruptShard, match="none: cannot be read: No such file"):
        read_contents(tmp_path / "none", [])


@pytest.mark.parametrize("pieces", [[Piece(0, 4, "a"), Piece(3, 4, "b")], [Piece(0, -1, "a")], [Piece(-1, 2, "a")]])
def test_pieces_that_overlap_or_lie_outside_are_refused(pieces):
    with pytest.raises(ValueError, match="overlap"):
        in_file_order(pieces)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_what_is_no_tensor_s_is_known_before_the_file_is_written(tmp_path, name):
    headers = [TensorHeader("a", FLOAT32, (2, 3)), TensorHeader("b", FLOAT32, (0,)), TensorHeader("c", FLOAT32, ())]
    (layout,) = layout_output(name, headers, "ckpt" if name.endswith("ckpt") else "safetensors")
    content = bytearray(layout.size)
    for offset, constant in layout.constants:
        content[offset : offset + len(constant)] = constant
    (tmp_path / name).write_bytes(content)
    found = read_contents(tmp_path / name, pieces_of(layout))
    assert found.rest == rest_of(layout, b"")
    assert found.tensors == {"a": digest(bytes(24)), "b": digest(b""), "c": digest(bytes(4))}
