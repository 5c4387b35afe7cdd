"""The source `directory`: the four IDX files of MNIST or a set made in its image, in a folder of the user's.

Each may be raw or compressed (`.gz`), and spelt as MNIST's pages spell it (`train-images-idx3-ubyte`) or as its
archive unpacks on some systems (`train-images.idx3-ubyte`).
"""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3

from shardline.base.errors import DatasetError
from shardline.datasets.description import IMAGES, LABELS, SPLITS, LabelledImages, Split, read_pair


class Directory:
    """The IDX files in one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def fingerprint(self) -> str:
        """Digests of the files' content: a folder that was copied or touched is still the same data."""
        files = [file for split in SPLITS for file in self._pair(split)]
        return "\n".join(_digest(file) for file in files)

    def read(self) -> dict[Split, LabelledImages]:
        return {split: read_pair(*self._pair(split)) for split in SPLITS}

    def _pair(self, split: Split) -> tuple[Path, Path]:
        return self._find(IMAGES[split]), self._find(LABELS[split])

    def _find(self, name: str) -> Path:
        spellings = [spelling + suffix for spelling in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz")]
        present = self._entries()
        for spelling in spellings:
            if spelling in present:
                return self.path / spelling
        raise DatasetError(
            f"{self.path}: expected {name}, raw or with .gz, found none of {', '.join(spellings)}; "
            f"the folder has {', '.join(sorted(present)[:8]) or 'no files'}"
        )

    def _entries(self) -> set[str]:
        try:
            return {entry.name for entry in self.path.iterdir() if entry.is_file()}
        except (OSError, ValueError) as error:  # ValueError: no path can hold a null character
            reason = error.strerror if isinstance(error, OSError) else error
            raise DatasetError(
                f"{self.path}: expected a readable folder of IDX files: {reason}; "
                "check data_directory, on the machine that runs this task"
            ) from error


def _digest(file: Path) -> str:
    try:
        return blake3(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"{file}: expected a readable IDX file: {error.strerror}") from error
