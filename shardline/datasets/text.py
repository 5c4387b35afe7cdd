"""Texts, as a language model takes them: every byte is a token, of a vocabulary of 256.

A sample is a window of `sequence_length` tokens, its labels the tokens that follow each of them. Windows lie one after
another, without overlap, so that an epoch takes every token once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shardline.base.errors import ConfigError, DatasetError
from shardline.datasets.description import SPLITS, Split, content_digest, read_description
from shardline.datasets.preparation import Source, prepare
from shardline.datasets.standard_library import StandardLibrary
from shardline.datasets.text_description import TEXT, TextDescription, read_tokens
from shardline.datasets.text_file import TextFile
from shardline.settings.run_config import RunConfig

VOCABULARY = 256


@dataclass(frozen=True)
class PreparedText:
    """A prepared text as a network with this window takes it."""

    description: TextDescription
    sequence_length: int

    @property
    def digest(self) -> str:
        return self.description.digest

    def count(self, split: Split) -> int:
        return windows(self.description.split(split).tokens, self.sequence_length)

    def to_json(self) -> str:
        return self.description.to_json()


@dataclass(frozen=True)
class Text:
    """The `Dataset` of a language model that sees `sequence_length` tokens at once."""

    sequence_length: int

    def prepare(self, config: RunConfig, home_data: Path) -> PreparedText:
        name, source = _source(config)
        prepared = PreparedText(prepare(name, source, TEXT, home_data), self.sequence_length)
        for split in SPLITS:
            if prepared.count(split) < 1:
                raise ConfigError(
                    f"sequence_length: expected at most {prepared.description.split(split).tokens - 1}, one less than "
                    f"the {split} text has bytes, found {self.sequence_length}; lower it, or take a longer text"
                )
        return prepared

    def load(self, dataset_file: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Samples and labels uint8 [N, sequence_length], both views of the split's file, which is not copied."""
        description = read_description(dataset_file, TextDescription.from_json)
        tokens = read_tokens(Path(description.directory), split)
        if (found := content_digest(tokens)) != description.split(split).digest:
            raise DatasetError(
                f"{description.directory}: the {split} text is not that of {dataset_file} (expected digest "
                f"{description.split(split).digest}, found {found}); run prepare_dataset again"
            )
        shape = (windows(len(tokens), self.sequence_length), self.sequence_length)
        used = shape[0] * shape[1]
        return tokens[:used].reshape(shape), tokens[1 : used + 1].reshape(shape)


def windows(tokens: int, sequence_length: int) -> int:
    """How many windows a text of so many tokens has; the last one's last label is a token as well."""
    return max(tokens - 1, 0) // sequence_length


def _source(config: RunConfig) -> tuple[str, Source[dict[Split, bytes]]]:
    """The source that `config` names, and the name of its folder."""
    if config.data_source == "text":
        return "text", TextFile(Path(config.text_file or "").absolute())
    if config.data_source == "embedded":
        return "standard_library", StandardLibrary(config.corpus_size)
    raise ConfigError(
        f"network {config.network!r} learns texts: expected data_source 'embedded' (the source code of Python's "
        f"standard library) or 'text' (a file of yours), found {config.data_source!r}, which gives images"
    )
