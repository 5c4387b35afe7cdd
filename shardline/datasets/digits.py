"""Digits: 28 × 28 images in ten classes, from MNIST or a set made in its image, as a network takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shardline.base.errors import ConfigError, DatasetError
from shardline.datasets.description import (
    LABELLED_IMAGES,
    DatasetDescription,
    LabelledImages,
    Split,
    content_digest,
    read_description,
    read_split,
)
from shardline.datasets.directory import Directory
from shardline.datasets.embedded import Embedded
from shardline.datasets.mnist import Mnist
from shardline.datasets.preparation import Source, prepare
from shardline.settings.run_config import RunConfig

# Mean and standard deviation of MNIST's 60,000 training images, scaled to 0…1; used for sets like it, too.
MEAN = 0.1307
STANDARD_DEVIATION = 0.3081


class Digits:
    """The `Dataset` of a classifier of digits."""

    def prepare(self, config: RunConfig, home_data: Path) -> DatasetDescription:
        source = _source(config, home_data / "downloads")
        return prepare(config.data_source, source, LABELLED_IMAGES, home_data)

    def load(self, dataset_file: Path, split: Split) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        return load(dataset_file, split)


def _source(config: RunConfig, downloads: Path) -> Source[dict[Split, LabelledImages]]:
    """The source that `config` names; `downloads` is where one that downloads keeps its files."""
    if config.data_source == "directory":
        return Directory(Path(config.data_directory or ""))
    if config.data_source == "mnist":
        return Mnist(config.mirrors, downloads)
    if config.data_source == "embedded":
        return Embedded()
    raise ConfigError(
        f"network {config.network!r} learns images of digits: expected data_source 'embedded', 'directory' or 'mnist', "
        f"found {config.data_source!r}"
    )


def load(dataset_file: Path, split: Split) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """One split of the data set that `dataset.json` describes: images, and labels int32 [N].

    The images are float32 [N, 1, 28, 28], (pixel / 255 − MEAN) / STANDARD_DEVIATION. `DatasetError` where the files
    are not, byte for byte, those that `dataset.json` describes.
    """
    description = read_description(dataset_file, DatasetDescription.from_json)
    samples = read_split(Path(description.directory), split)
    expected = description.split(split)
    for name, items, digest in (
        ("images", samples.images, expected.images_digest),
        ("labels", samples.labels, expected.labels_digest),
    ):
        found = content_digest(items)
        if found != digest:
            raise DatasetError(
                f"{description.directory}: the {split} {name} are not those of {dataset_file} (expected digest "
                f"{digest}, found {found}); run prepare_dataset again"
            )
    return normalise(samples.images), samples.labels.astype(np.int32)


def normalise(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Images uint8 [N, 28, 28] as a network takes them: float32 [N, 1, 28, 28]."""
    scaled = images[:, None].astype(np.float32)
    scaled /= np.float32(255)
    scaled -= np.float32(MEAN)
    scaled /= np.float32(STANDARD_DEVIATION)
    return scaled
