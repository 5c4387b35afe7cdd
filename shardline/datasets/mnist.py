"""The source `mnist`: the 70,000 digits of MNIST, downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from shardline.datasets.description import LabelledImages, Split
from shardline.datasets.directory import Directory
from shardline.datasets.download import DownloadLimits, RemoteFile, fetch

# The sizes and checksums of the files that Y. LeCun published in 1998; TensorFlow Datasets lists the same:
# tensorflow_datasets/url_checksums/mnist.txt.
FILES = (
    RemoteFile(
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    RemoteFile(
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    RemoteFile(
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    RemoteFile(
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)


class Mnist:
    """Four files that any of the mirrors may serve; what they must contain is known beforehand."""

    def __init__(
        self,
        mirrors: Sequence[str],
        downloads: Path,
        files: Sequence[RemoteFile] = FILES,
        limits: DownloadLimits = DownloadLimits(),  # noqa: B008  immutable
    ) -> None:
        self.mirrors = mirrors
        self.files = files
        self.limits = limits
        self.folder = downloads / f"mnist-{hashlib.sha256(self.fingerprint().encode()).hexdigest()[:16]}"

    def fingerprint(self) -> str:
        return "\n".join(file.sha256 for file in self.files)

    def read(self) -> dict[Split, LabelledImages]:
        for file in self.files:
            fetch(file, self.mirrors, self.folder, self.limits)
        return Directory(self.folder).read()
