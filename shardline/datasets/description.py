"""`dataset.json` of labelled images: where a run's data set is, and what it must hold.

Prepared images are a folder with four raw IDX files, which `mindspore.dataset.MnistDataset` reads as they are:

    train/train-images-idx3-ubyte   train/train-labels-idx1-ubyte
    test/t10k-images-idx3-ubyte     test/t10k-labels-idx1-ubyte
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from blake3 import blake3

from shardline.base.counts import counted
from shardline.base.errors import DatasetError
from shardline.datasets import idx
from shardline.datasets.preparation import Form

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
Description = TypeVar("Description")


@dataclass(frozen=True)
class LabelledImages:
    """One split: images uint8 [N, 28, 28] and their labels uint8 [N]."""

    images: idx.Bytes
    labels: idx.Bytes


@dataclass(frozen=True)
class SplitDescription:
    """How many samples a split has, in all and of each class, and the BLAKE3 digests of its two files."""

    count: int
    label_histogram: tuple[int, ...]
    images_digest: str
    labels_digest: str


@dataclass(frozen=True)
class DatasetDescription:
    """A prepared data set: its source, absolute folder, digest of all its content, and splits."""

    source: str
    directory: str
    digest: str
    train: SplitDescription
    test: SplitDescription
    kind: Literal["images"] = "images"

    def split(self, split: Split) -> SplitDescription:
        return self.train if split == "train" else self.test

    def count(self, split: Split) -> int:
        """The number of samples of a split."""
        return self.split(split).count

    def placed(self, directory: Path) -> DatasetDescription:
        """The same content, in the folder `directory`."""
        return replace(self, directory=str(directory))

    def summary(self) -> str:
        """How much of what there is, in words."""
        return f"{self.train.count} training and {self.test.count} test images"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, document: str | bytes, where: Path) -> DatasetDescription:
        """The description in a JSON document read from `where`; `DatasetError` where it is not one."""
        try:
            fields = json.loads(document)
            for split in SPLITS:
                fields[split]["label_histogram"] = tuple(fields[split]["label_histogram"])
                fields[split] = SplitDescription(**fields[split])
            return cls(**fields)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DatasetError(
                f"{where}: expected the description that prepare_dataset writes, found something else ({error!r}); "
                "run prepare_dataset again"
            ) from error


def read_description(dataset_file: Path, from_json: Callable[[bytes, Path], Description]) -> Description:
    """What `dataset.json` says, by the `from_json` of its kind; `DatasetError` where it is missing or damaged."""
    try:
        return from_json(dataset_file.read_bytes(), dataset_file)
    except OSError as error:
        raise DatasetError(
            f"{dataset_file}: expected the description that prepare_dataset writes: {error.strerror}; run that first"
        ) from error


def split_files(directory: Path, split: Split) -> tuple[Path, Path]:
    """The images file and the labels file of one split of a prepared data set."""
    return directory / split / IMAGES[split], directory / split / LABELS[split]


def write_splits(splits: dict[Split, LabelledImages], directory: Path) -> None:
    """Write all four files of a prepared data set."""
    for split in SPLITS:
        images_file, labels_file = split_files(directory, split)
        images_file.parent.mkdir()
        idx.write_images(images_file, splits[split].images)
        idx.write_labels(labels_file, splits[split].labels)


def describe(source: str, directory: Path) -> DatasetDescription:
    """Describe the prepared data set in `directory` from its files, all of which are read and checked."""
    splits = {split: _describe_split(directory, split) for split in SPLITS}
    digests = [digest for part in splits.values() for digest in (part.images_digest, part.labels_digest)]
    return DatasetDescription(
        source=source,
        directory=str(directory),
        digest=blake3("\n".join(digests).encode()).hexdigest(),
        train=splits["train"],
        test=splits["test"],
    )


def read_split(directory: Path, split: Split) -> LabelledImages:
    """Both files of one split, as they are now."""
    images_file, labels_file = split_files(directory, split)
    return read_pair(images_file, labels_file)


def read_pair(images_file: Path, labels_file: Path) -> LabelledImages:
    """A file of images and that of their labels; `DatasetError` unless there are as many of one as of the other."""
    images, labels = idx.read_images(images_file), idx.read_labels(labels_file)
    if len(images) != len(labels):
        raise DatasetError(
            f"expected a label for each image, found {counted(len(images), 'image')} in {images_file} "
            f"and {counted(len(labels), 'label')} in {labels_file}"
        )
    return LabelledImages(images, labels)


def _describe_split(directory: Path, split: Split) -> SplitDescription:
    samples = read_split(directory, split)
    histogram = np.bincount(samples.labels, minlength=idx.CLASSES)
    return SplitDescription(
        count=len(samples.labels),
        label_histogram=tuple(int(count) for count in histogram),
        images_digest=content_digest(samples.images),
        labels_digest=content_digest(samples.labels),
    )


def content_digest(items: idx.Bytes) -> str:
    """BLAKE3, in hexadecimal, of the pixels, labels or tokens themselves, without their file's header."""
    return blake3(np.ascontiguousarray(items).data).hexdigest()


LABELLED_IMAGES = Form(write_splits, describe, DatasetDescription.from_json)
