"""`dataset.json` of a text: where it is, and what it must hold.

A prepared text is a folder with two files, `train.txt` and `test.txt`, each byte of which is a token.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from shardline.base.errors import DatasetError
from shardline.datasets.description import SPLITS, Split, content_digest
from shardline.datasets.preparation import Form


@dataclass(frozen=True)
class TextSplit:
    """The number of tokens of one split, and the BLAKE3 digest of its file."""

    tokens: int
    digest: str


@dataclass(frozen=True)
class TextDescription:
    """A prepared text: its source, absolute folder, digest of all its content, and splits."""

    source: str
    directory: str
    digest: str
    train: TextSplit
    test: TextSplit
    kind: Literal["text"] = "text"

    def split(self, split: Split) -> TextSplit:
        return self.train if split == "train" else self.test

    def placed(self, directory: Path) -> TextDescription:
        return replace(self, directory=str(directory))

    def summary(self) -> str:
        return f"{self.train.tokens} training and {self.test.tokens} test tokens"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, document: str | bytes, where: Path) -> TextDescription:
        """The description in a JSON document read from `where`; `DatasetError` where it is not one."""
        try:
            fields = json.loads(document)
            if fields["kind"] != "text":
                raise ValueError(f"kind {fields['kind']!r}")
            return cls(**fields | {split: TextSplit(**fields[split]) for split in SPLITS})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DatasetError(
                f"{where}: expected the description of a text that prepare_dataset writes, found something else "
                f"({error!r}); run prepare_dataset again"
            ) from error


def _write(splits: dict[Split, bytes], folder: Path) -> None:
    for split in SPLITS:
        _file(folder, split).write_bytes(splits[split])


def _describe(source: str, folder: Path) -> TextDescription:
    texts = {split: read_tokens(folder, split) for split in SPLITS}
    splits = {split: TextSplit(len(tokens), content_digest(tokens)) for split, tokens in texts.items()}
    digest = blake3("\n".join(splits[split].digest for split in SPLITS).encode()).hexdigest()
    return TextDescription(source, str(folder), digest, splits["train"], splits["test"])


TEXT = Form(_write, _describe, TextDescription.from_json)


def _file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.txt"


def read_tokens(folder: Path, split: Split) -> npt.NDArray[np.uint8]:
    """The bytes of one split's file, mapped, not read; at least one."""
    file = _file(folder, split)
    try:
        return np.asarray(np.memmap(file, np.uint8, mode="r"))
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise DatasetError(f"{file}: expected the {split} text: {reason}; give a longer one") from error
