"""The source `embedded` of texts: the source code of the running Python's standard library.

Files keep together: each is in one split only, which a digest of its path decides, as it does the files' order. So a
text that was held out never occurs in training, and a longer text starts with the shorter one.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from shardline.base.errors import DatasetError
from shardline.datasets.description import Split

HELD_OUT = 10
"""One file in so many is held out, and one byte for so many of training."""

# Tables and manuals, nearly equal to one another, and tests.
_LEFT_OUT = frozenset({"encodings", "pydoc_data", "test", "tests", "idle_test"})
_RULE = "paths by BLAKE3, 1"


@dataclass(frozen=True)
class StandardLibrary:
    """`size` bytes of training text, and a tenth of that held out, if there is so much."""

    size: int
    folder: Path = Path(sysconfig.get_path("stdlib"))

    def fingerprint(self) -> str:
        """Which files there are and how long: a library that was patched is another text."""
        files = (f"{self._name(file)} {file.stat().st_size}" for file in self._files())
        return "\n".join((_RULE, str(self.size), *files))

    def read(self) -> dict[Split, bytes]:
        """Both splits; `DatasetError` unless there is enough text for the first."""
        files: dict[Split, list[Path]] = {"train": [], "test": []}
        for file in sorted(self._files(), key=self._digest):
            files["test" if int(self._digest(file), 16) % HELD_OUT == 0 else "train"].append(file)
        train = _beginning(files["train"], self.size)
        if len(train) < self.size:
            raise DatasetError(
                f"{self.folder}: expected {self.size} bytes of Python's standard library, found {len(train)}; lower "
                "corpus_size, or give a text_file"
            )
        return {"train": train, "test": _beginning(files["test"], self.size // HELD_OUT)}

    def _files(self) -> Iterator[Path]:
        for module in sorted(sys.stdlib_module_names):
            if (file := self.folder / f"{module}.py").is_file():
                yield file
            for file in sorted((self.folder / module).rglob("*.py")):
                if not _LEFT_OUT & set(file.relative_to(self.folder).parts):
                    yield file

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _digest(self, file: Path) -> str:
        return blake3(self._name(file).encode()).hexdigest()


def _beginning(files: list[Path], size: int) -> bytes:
    """The first `size` bytes of all `files`, one after the other."""
    parts, missing = [], size
    for file in files:
        if missing <= 0:
            break
        parts.append(file.read_bytes()[:missing])
        missing -= len(parts[-1])
    return b"".join(parts)
