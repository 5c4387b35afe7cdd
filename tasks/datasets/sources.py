"""What a source of data promises, and which one a configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tasks.config import RunConfig
from tasks.datasets.description import LabelledImages, Split
from tasks.datasets.directory import Directory
from tasks.datasets.embedded import Embedded
from tasks.datasets.mnist import Mnist


class Source(Protocol):
    """A data set before it is prepared.

    Two methods, so that data which was prepared before is found again without being fetched or decoded.
    """

    def fingerprint(self) -> str:
        """A text that differs whenever `read` would give other samples; cheap to compute."""

    def read(self) -> dict[Split, LabelledImages]:
        """Both splits, checked; `DatasetError` where they cannot be had."""


def source_of(config: RunConfig, downloads: Path) -> Source:
    """The source that `config` names; `downloads` is where one that downloads keeps its files."""
    if config.data_source == "directory":
        return Directory(Path(config.data_directory or ""))
    if config.data_source == "mnist":
        return Mnist(config.mirrors, downloads)
    return Embedded()
