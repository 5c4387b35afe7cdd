from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import DatasetError
from shardline.datasets.idx import read_images, read_labels, write_images, write_labels

TWO_LABELS = bytes.fromhex("00000801 00000002 0709")
ONE_IMAGE = bytes.fromhex("00000803 00000001 0000001c 0000001c") + bytes(range(256)) * 3 + bytes(16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "digits"


def test_labels_are_read_from_literal_bytes(file: Path):
    file.write_bytes(TWO_LABELS)
    assert read_labels(file).tolist() == [7, 9]


def test_images_are_read_from_literal_bytes(file: Path):
    file.write_bytes(ONE_IMAGE)
    images = read_images(file)
    assert images.shape == (1, 28, 28)
    assert images.dtype == np.uint8
    assert images[0, 1, 0] == 28


def test_gzip_is_told_by_content_whatever_the_name(file: Path):
    file.write_bytes(gzip.compress(TWO_LABELS, mtime=0))
    assert read_labels(file).tolist() == [7, 9]


def test_writing_gives_the_literal_bytes(file: Path):
    write_labels(file, np.array([7, 9], np.uint8))
    assert file.read_bytes() == TWO_LABELS
    write_images(file, np.frombuffer(ONE_IMAGE[16:], np.uint8).reshape(1, 28, 28))
    assert file.read_bytes() == ONE_IMAGE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file of labels, found an empty file"),
        (b"\x00\x00", "found the bytes 0x0000"),
        (b"<!DOCTYPE html>", "magic number 0x00000801.*found the bytes 0x3c21444f"),
        (ONE_IMAGE, "magic number 0x00000801.*found the bytes 0x00000803"),
        (TWO_LABELS[:6], "header of 8 bytes, found the end of the file after 6"),
        (TWO_LABELS[:-1], "expected 2 bytes for the 2 labels.*found 1 .truncated."),
        (TWO_LABELS + b"\x00", "expected 2 bytes for the 2 labels.*found more .trailing bytes."),
        (bytes.fromhex("00000801 00000000"), "at least one; its header announces none"),
        (bytes.fromhex("00000801 00000003 010a0b"), "labels from 0 to 9, found 10 at index 1 .2 such labels"),
        (bytes.fromhex("00000801 ffffffff 01"), "expected 4294967295 bytes.*found 1"),
        (gzip.compress(TWO_LABELS, mtime=0)[:-9], "gzip stream is damaged or cut short"),
        (gzip.compress(TWO_LABELS, mtime=0)[:-4], "gzip stream is damaged or cut short"),
        (gzip.compress(TWO_LABELS, mtime=0)[:-8] + bytes(8), "gzip stream is damaged.*CRC"),
        (gzip.compress(TWO_LABELS, mtime=0) + b"trailing", "gzip stream is damaged"),
        (gzip.compress(TWO_LABELS[:-1], mtime=0), "expected 2 bytes.*found 1 .truncated."),
        (gzip.compress(TWO_LABELS + b"\x00", mtime=0), "trailing bytes"),
        (b"\x1f\x8b", "gzip stream is damaged"),
    ],
)
def test_damaged_labels_are_refused(file: Path, content: bytes, message: str):
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as raised:
        read_labels(file)
    assert str(file) in str(raised.value)


def test_images_of_another_size_are_refused(file: Path):
    file.write_bytes(bytes.fromhex("00000803 00000001 00000020 00000020") + bytes(1024))
    with pytest.raises(DatasetError, match="28 × 28 pixels, found 32 × 32"):
        read_images(file)


def test_truncated_images_are_refused(file: Path):
    file.write_bytes(ONE_IMAGE[:-1])
    with pytest.raises(DatasetError, match=r"expected 784 bytes for the 1 image that.*found 783 \(truncated\)"):
        read_images(file)


def test_a_missing_file_and_a_folder_are_refused(file: Path):
    with pytest.raises(DatasetError, match="expected a readable file of labels: No such file"):
        read_labels(file)
    with pytest.raises(DatasetError, match="expected a readable file of images: Is a directory"):
        read_images(file.parent)
