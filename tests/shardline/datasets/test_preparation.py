from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import DatasetError
from shardline.datasets import idx
from shardline.datasets.description import LABELLED_IMAGES, SPLITS, LabelledImages, Split, read_split
from shardline.datasets.directory import Directory
from shardline.datasets.preparation import prepare
from tests.durability import recorded

IMAGES = "train/train-images-idx3-ubyte"


class Counted:
    """A source that counts how often it is read."""

    def __init__(self, splits: dict[Split, LabelledImages]) -> None:
        self.splits = splits
        self.reads = 0

    def fingerprint(self) -> str:
        return "counted"

    def read(self) -> dict[Split, LabelledImages]:
        self.reads += 1
        return self.splits


@pytest.fixture
def source(samples) -> Counted:
    return Counted(samples)


def test_counts_histograms_and_digests_describe_the_files(tmp_path: Path, source: Counted):
    description = prepare("counted", source, LABELLED_IMAGES, tmp_path)
    for split in SPLITS:
        expected = source.splits[split]
        written = read_split(Path(description.directory), split)
        np.testing.assert_array_equal(written.images, expected.images)
        np.testing.assert_array_equal(written.labels, expected.labels)
        assert description.split(split).count == len(expected.labels)
        assert description.split(split).label_histogram == tuple(np.bincount(expected.labels, minlength=10))


def test_mindspore_reads_what_was_prepared(tmp_path: Path, source: Counted):
    from mindspore.dataset import MnistDataset

    description = prepare("counted", source, LABELLED_IMAGES, tmp_path)
    for split in SPLITS:
        dataset = MnistDataset(str(Path(description.directory) / split), usage=split, shuffle=False)
        rows = list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
        np.testing.assert_array_equal([image[:, :, 0] for image, _ in rows], source.splits[split].images)
        np.testing.assert_array_equal([label for _, label in rows], source.splits[split].labels)


def test_unchanged_data_is_not_prepared_again(tmp_path: Path, source: Counted):
    first = prepare("counted", source, LABELLED_IMAGES, tmp_path)
    inode = (Path(first.directory) / IMAGES).stat().st_ino
    assert prepare("counted", source, LABELLED_IMAGES, tmp_path) == first
    assert source.reads == 1
    assert (Path(first.directory) / IMAGES).stat().st_ino == inode


def _flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _flip_last_byte(folder / IMAGES),
        lambda folder: (folder / IMAGES).write_bytes(b""),
        lambda folder: (folder / IMAGES).unlink(),
        lambda folder: idx.write_labels(folder / "test/t10k-labels-idx1-ubyte", np.zeros(20, np.uint8)),
        lambda folder: (folder / "contents.json").write_text("{"),
        lambda folder: (folder / "contents.json").write_text("[]"),
        lambda folder: (folder / "contents.json").unlink(),
    ],
)
def test_prepared_data_that_changed_is_prepared_again(tmp_path: Path, source: Counted, damage):
    first = prepare("counted", source, LABELLED_IMAGES, tmp_path)
    damage(Path(first.directory))
    assert prepare("counted", source, LABELLED_IMAGES, tmp_path) == first
    assert source.reads == 2
    np.testing.assert_array_equal(read_split(Path(first.directory), "train").images, source.splits["train"].images)


def test_prepared_data_is_on_disk_before_its_folder_has_its_name(tmp_path: Path, source: Counted):
    with recorded(tmp_path) as durability:
        prepared = prepare("counted", source, LABELLED_IMAGES, tmp_path / "prepared")
    durability.check(Path(prepared.directory))


def test_other_data_gets_another_folder_and_digest(tmp_path: Path, idx_folder: Path):
    before = prepare("directory", Directory(idx_folder), LABELLED_IMAGES, tmp_path / "prepared")
    _flip_last_byte(idx_folder / "t10k-images-idx3-ubyte")
    after = prepare("directory", Directory(idx_folder), LABELLED_IMAGES, tmp_path / "prepared")
    assert before.directory != after.directory
    assert before.digest != after.digest
    assert before.train == after.train


def test_the_digest_does_not_depend_on_the_source(tmp_path: Path, source: Counted, idx_folder: Path):
    counted = prepare("counted", source, LABELLED_IMAGES, tmp_path / "prepared")
    assert prepare("directory", Directory(idx_folder), LABELLED_IMAGES, tmp_path / "prepared").digest == counted.digest


def test_a_source_that_fails_leaves_nothing(tmp_path: Path, source: Counted):
    source.splits["test"] = LabelledImages(source.splits["test"].images, source.splits["test"].labels[1:])
    with pytest.raises(DatasetError, match="20 images"):
        prepare("counted", source, LABELLED_IMAGES, tmp_path)
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".lock"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, source: Counted, monkeypatch: pytest.MonkeyPatch):
    def no_space(path: Path, labels: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(idx, "write_labels", no_space)
    with pytest.raises(DatasetError, match=r"idx1-ubyte: cannot prepare data there: No space left.*; make room"):
        prepare("counted", source, LABELLED_IMAGES, tmp_path)
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".lock"]


class Slow(Counted):
    """A source that leaves a mark in `log` at each reading, and takes its time."""

    def __init__(self, splits: dict[Split, LabelledImages], log: Path, seconds: float) -> None:
        super().__init__(splits)
        self.log = log
        self.seconds = seconds

    def read(self) -> dict[Split, LabelledImages]:
        with self.log.open("a") as log:
            log.write("read\n")
        time.sleep(self.seconds)
        return super().read()


def _start(source: Slow, root: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=prepare, args=("slow", source, LABELLED_IMAGES, root))
    process.start()
    return process


def test_runs_that_prepare_the_same_at_once_do_it_once(tmp_path: Path, samples):
    source = Slow(samples, tmp_path / "log", 0.5)
    processes = [_start(source, tmp_path / "prepared") for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "read\n"


def test_what_a_killed_preparation_left_is_cleared_away(tmp_path: Path, samples, monkeypatch: pytest.MonkeyPatch):
    def die(path: Path, labels: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(idx, "write_labels", die)
        process = _start(Slow(samples, tmp_path / "log", 0), tmp_path / "prepared")
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [entry.suffix for entry in sorted((tmp_path / "prepared").iterdir())] == [".lock", ".staged"]
    description = prepare("slow", Slow(samples, tmp_path / "log", 0), LABELLED_IMAGES, tmp_path / "prepared")
    assert sorted(entry.suffix for entry in (tmp_path / "prepared").iterdir()) == ["", ".lock"]
    assert description.train.count == 30
