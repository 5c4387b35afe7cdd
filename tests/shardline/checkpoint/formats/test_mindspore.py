"""What MindSpore writes, we read; and what we write is, byte for byte, what MindSpore would write."""

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore.train import serialization

from shardline.base.errors import UnsupportedFormat
from shardline.checkpoint.formats import ckpt
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.formats.small_floats import VALUES
from shardline.checkpoint.formats.tensor_types import BFLOAT16, BY_NAME, FLOAT16, FLOAT32, cast
from tests.shardline.checkpoint.saved_by_mindspore import saved_by_mindspore

GENERATOR = np.random.default_rng(7)
ARRAYS = {
    "Bool": np.array([[True, False]]),
    "Int8": np.arange(-3, 3, dtype=np.int8),
    "Int16": np.arange(6, dtype=np.int16).reshape(1, 2, 3),
    "Int32": np.array(-7, dtype=np.int32),
    "Int64": np.arange(3, dtype=np.int64),
    "UInt8": np.arange(5, dtype=np.uint8),
    "UInt16": np.arange(5, dtype=np.uint16),
    "UInt32": np.arange(5, dtype=np.uint32),
    "UInt64": np.array([2**63], dtype=np.uint64),
    "Float16": GENERATOR.standard_normal((3, 2)).astype(np.float16),
    "Float32": GENERATOR.standard_normal((4, 300)).astype(np.float32),
    "Float64": GENERATOR.standard_normal(1),
}


@pytest.mark.parametrize("crc", [False, True])
def test_our_ckpt_is_byte_for_byte_mindspores(tmp_path, crc):
    theirs = saved_by_mindspore(
        tmp_path / "a.ckpt", ARRAYS, append_dict={"text": "löss", "step": 3, "rate": 0.5}, crc_check=crc
    )
    ours = tmp_path / "b.ckpt"
    more = {"text": "löss", "step": np.array(3, dtype=np.int64), "rate": np.array(0.5, dtype=np.float32)}
    write_checkpoint({**ARRAYS, **more}, ours, crc=crc)
    assert ours.read_bytes() == theirs


def test_bfloat16_is_byte_for_byte_mindspores(tmp_path):
    tensor = Tensor(ARRAYS["Float32"]).astype(mindspore.bfloat16)
    mindspore.save_checkpoint([{"name": "x", "data": tensor}], str(tmp_path / "a.ckpt"))
    bits = read_checkpoint(tmp_path / "a.ckpt")["x"]
    assert np.array_equal(bits, cast(ARRAYS["Float32"].reshape(-1), FLOAT32, BFLOAT16).reshape(4, 300))
    write_checkpoint({"x": bits}, tmp_path / "b.ckpt", types={"x": BFLOAT16})
    assert (tmp_path / "b.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()


def test_every_type_is_read_from_both_formats(tmp_path):
    saved_by_mindspore(tmp_path / "a.ckpt", ARRAYS)
    saved_by_mindspore(tmp_path / "a.safetensors", ARRAYS, format="safetensors")
    for suffix in (".ckpt", ".safetensors"):
        found = read_checkpoint(tmp_path / f"a{suffix}")
        for name, array in ARRAYS.items():
            assert found.header(name).type is BY_NAME[name]
            assert np.array_equal(found[name], array)


def test_int4_keeps_its_name_in_safetensors(tmp_path):
    packed = Tensor(np.array([[1, -2]], dtype=np.int8), dtype=mindspore.qint4x2)
    parameter = {"name": "x", "data": Parameter(packed, name="x")}
    mindspore.save_checkpoint([parameter], str(tmp_path / "a.ckpt"))
    header = read_checkpoint(tmp_path / "a.ckpt").header("x")
    assert (header.type.name, header.shape) == ("Int4", (1, 2))


def test_a_large_tensor_in_even_pieces_is_read_and_written_as_mindspore_does(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)
    monkeypatch.setattr(ckpt, "PIECE", 1024)
    theirs = saved_by_mindspore(tmp_path / "a.ckpt", ARRAYS)
    assert np.array_equal(read_checkpoint(tmp_path / "a.ckpt")["Float32"], ARRAYS["Float32"])
    assert len(read_checkpoint(tmp_path / "a.ckpt").index.pieces[10]) == 5
    write_checkpoint(ARRAYS, tmp_path / "b.ckpt")
    assert (tmp_path / "b.ckpt").read_bytes() == theirs


def test_a_large_tensor_in_uneven_pieces_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)
    arrays = {"x": ARRAYS["Float32"], "e": np.zeros((0, 3), np.float32), "long": GENERATOR.standard_normal((3, 200))}
    save_list = [{"name": name, "data": Tensor(array)} for name, array in arrays.items()]
    mindspore.save_checkpoint(save_list, str(tmp_path / "a.ckpt"), async_save="thread")
    serialization._wait_async_thread_save_ckpt()
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert {len(extents) for extents in found.index.pieces.values()} == {5}
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC", "SM4-CBC"])
def test_an_encrypted_file_is_refused_by_name(tmp_path, mode):
    saved_by_mindspore(tmp_path / "a.ckpt", ARRAYS, enc_key=b"0123456789abcdef", enc_mode=mode)
    with pytest.raises(UnsupportedFormat, match=f"is encrypted .*{mode}.*dec_key"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "hifloat8"])
def test_eight_bits_are_worth_what_mindspore_means_by_them(tmp_path, name):
    tensor_type = BY_NAME[str(getattr(mindspore, name))]
    values = VALUES[tensor_type.name]
    codes = np.flatnonzero(np.isfinite(values) & (values != 0)).astype(np.uint8)
    tensor = Tensor(values[codes], dtype=getattr(mindspore, name))
    mindspore.save_checkpoint([{"name": "w", "data": tensor}], str(tmp_path / "a.ckpt"))
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert found.header("w").type is tensor_type
    assert np.array_equal(found["w"], codes)
    write_checkpoint({"w": codes}, tmp_path / "b.ckpt", types={"w": tensor_type})
    assert (tmp_path / "b.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_are_byte_for_byte_mindspores(tmp_path, dtype):
    theirs = saved_by_mindspore(tmp_path / "a.ckpt", {"w": np.array([[1 + 2j], [3 - 4j]], dtype=dtype)})
    write_checkpoint(dict(read_checkpoint(tmp_path / "a.ckpt")), tmp_path / "b.ckpt")
    assert (tmp_path / "b.ckpt").read_bytes() == theirs


@pytest.mark.parametrize("source", [BFLOAT16, FLOAT16, FLOAT32])
@pytest.mark.parametrize("target", [BFLOAT16, FLOAT16, FLOAT32])
def test_casts_round_as_mindspores_do(source, target):
    values = np.concatenate([GENERATOR.standard_normal(5000), [0.0, -0.0, 1e-8, 65504, 1 + 2**-9, 1 + 2**-8 + 2**-9]])
    elements = cast(values.astype(np.float32), FLOAT32, source)
    dtypes = {"BFloat16": mindspore.bfloat16, "Float16": mindspore.float16, "Float32": mindspore.float32}
    single = cast(elements, source, FLOAT32) if source == BFLOAT16 else elements
    expected = Tensor(single).astype(dtypes[target.name])
    assert np.array_equal(
        cast(cast(elements, source, target), target, FLOAT32), expected.astype(mindspore.float32).asnumpy()
    )
