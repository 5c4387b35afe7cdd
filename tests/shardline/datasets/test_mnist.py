from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import DatasetError
from shardline.datasets.description import IMAGES, LABELLED_IMAGES, LABELS, SPLITS
from shardline.datasets.download import DownloadLimits, RemoteFile
from shardline.datasets.mnist import FILES, Mnist
from shardline.datasets.preparation import prepare

QUICK = DownloadLimits(connect=2, read=1, attempts=2)

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def published(idx_folder: Path) -> dict[str, bytes]:
    """The four files of a small data set, as a mirror has them."""
    return {f"{file.name}.gz": gzip.compress(file.read_bytes(), mtime=0) for file in sorted(idx_folder.iterdir())}


def remote_files(published: dict[str, bytes]) -> list[RemoteFile]:
    return [RemoteFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in published.items()]


def test_the_four_files_become_both_splits(tmp_path: Path, mirrors, published, samples):
    mirror = mirrors()
    mirror.files = published
    read = Mnist([mirror.url], tmp_path / "downloads", remote_files(published), QUICK).read()
    for split in SPLITS:
        np.testing.assert_array_equal(read[split].images, samples[split].images)
        np.testing.assert_array_equal(read[split].labels, samples[split].labels)


def test_prepared_once_nothing_is_downloaded_again(tmp_path: Path, mirrors, published):
    mirror = mirrors()
    mirror.files = published
    source = Mnist([mirror.url], tmp_path / "downloads", remote_files(published), QUICK)
    first = prepare("mnist", source, LABELLED_IMAGES, tmp_path / "prepared")
    again = Mnist(["http://127.0.0.1:1/"], tmp_path / "downloads", remote_files(published), QUICK)
    assert prepare("mnist", again, LABELLED_IMAGES, tmp_path / "prepared") == first
    assert len(mirror.requests) == 4


def test_without_a_mirror_nothing_is_prepared(tmp_path: Path, published):
    source = Mnist(["http://127.0.0.1:1/"], tmp_path / "downloads", remote_files(published), QUICK)
    with pytest.raises(DatasetError, match=r"no mirror served t10k-images-idx3-ubyte.gz"):
        prepare("mnist", source, LABELLED_IMAGES, tmp_path / "prepared")
    assert not [entry for entry in (tmp_path / "prepared").iterdir() if entry.suffix != ".lock"]


def test_the_genuine_files_are_the_four_that_were_published():
    assert [file.name for file in FILES] == [
        f"{name}.gz" for split in SPLITS for name in (IMAGES[split], LABELS[split])
    ]
    assert sum(file.size for file in FILES) == 11_594_722
