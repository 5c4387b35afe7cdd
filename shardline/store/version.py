"""One version of a model: a folder of read-only files that a `version.json`, written last, describes.

The checkpoint is copied, not linked: a link would share its bytes with the run directory, where they can be changed.
The kernel's `copy_file_range` lets the copy share blocks with the original where the file system can (XFS, Btrfs), so
that it costs neither time nor space.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard, PromotionError
from shardline.base.file_names import is_plain

DESCRIPTION = "version.json"
SIGNATURE = "model.sig"
_NONE = type(None)
_TYPES: Mapping[str, tuple[type, ...]] = {
    "version": (int,),
    "digest": (str,),
    "metric": (str, _NONE),
    "value": (float, int, _NONE),
    "step": (int, _NONE),
    "run": (str,),
    "model": (str,),
    "files": (dict,),
}


@dataclass(frozen=True)
class Candidate:
    """What is to become a version: a checkpoint with its digest, and the files that go with it by name."""

    run: str
    """Which run it comes from: a run has one version of each digest."""
    model: Path
    digest: str
    metric: str | None
    """By what it was validated: `accuracy`, `perplexity`…; None where nothing says how good it is."""
    value: float | None
    step: int | None
    documents: Mapping[str, bytes]


@dataclass(frozen=True)
class Version:
    """A version as its `version.json` describes it; `path` is its folder, `digest` the checkpoint's BLAKE3."""

    version: int
    digest: str
    metric: str | None
    value: float | None
    step: int | None
    run: str
    model: str
    files: Mapping[str, str]
    path: Path

    @property
    def model_file(self) -> Path:
        """The integrated checkpoint, .ckpt or .safetensors."""
        return self.path / self.model

    @property
    def signature(self) -> Path | None:
        """The file that signs all others, if the version was signed when it was promoted."""
        file = self.path / SIGNATURE
        return file if file.exists() else None

    def is_of(self, candidate: Candidate) -> bool:
        """Whether this is what promoting `candidate` made before."""
        return (self.run, self.digest) == (candidate.run, candidate.digest)

    def verify(self) -> None:
        """Raise `PromotionError` unless every file still has the digest that it was promoted with."""
        for name, digest in self.files.items():
            try:
                found = file_digest(self.path / name)
            except CorruptShard as error:
                raise PromotionError(f"version {self.version}: {error}, or roll back") from error
            if found != digest:
                raise PromotionError(
                    f"{self.path / name}: expected the digest {digest} of version {self.version}, found {found}: it "
                    "was changed after its promotion; restore it, or roll back"
                )


def read_version(folder: Path) -> Version:
    """The version in `folder`; `PromotionError` where there is none, or its description is damaged."""
    try:
        fields = json.loads((folder / DESCRIPTION).read_bytes())
        metric = fields.pop("metric", "accuracy")  # which the first versions took for granted
        value = None if metric is None else fields.pop(metric)
        version = Version(**fields | {"metric": metric, "value": value}, path=folder)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise PromotionError(f"{folder}: expected a version of the model store ({error!r}); restore it") from error
    for problem in _problems(version):
        raise PromotionError(f"{folder / DESCRIPTION}: {problem}; it is damaged or made by hand: restore it")
    return version


def _problems(version: Version) -> Iterator[str]:
    for name, kinds in _TYPES.items():
        if type(value := getattr(version, name)) not in kinds:
            yield f"expected {name} to be {kinds[0].__name__}, found {value!r:.100}"
            return
    if version.files.get(version.model) != version.digest:
        yield f"expected {version.model!r:.100} with the digest {version.digest!r:.100} among its files, found others"
    for name, digest in version.files.items():
        if not is_plain(name) or not isinstance(digest, str):
            yield f"expected the name of a file beside it and its digest, found {name!r:.100} and {digest!r:.100}"


def write_version(folder: Path, number: int, candidate: Candidate, sign: Callable[[Path], None] | None = None) -> None:
    """Fill the new `folder` with all files of a version, durably; `PromotionError` if the checkpoint was changed.

    `sign` adds a signature of all the others.
    """
    model = folder / candidate.model.name
    _copy(candidate.model, model)
    for name, content in candidate.documents.items():
        (folder / name).write_bytes(content)
    files = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
    if files[model.name] != candidate.digest:
        raise PromotionError(
            f"{candidate.model}: expected the digest {candidate.digest} that was validated, found {files[model.name]}: "
            "it was changed since; clear merge and what follows"
        )
    description = {
        "version": number,
        "digest": candidate.digest,
        "metric": candidate.metric,
        **({} if candidate.metric is None else {candidate.metric: candidate.value}),
        "step": candidate.step,
        "run": candidate.run,
        "model": model.name,
        "files": files,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    if sign is not None:
        sign(folder)
    for file in folder.iterdir():
        _make_durable(file)
    atomic.sync_directory(folder)


def _copy(source: Path, target: Path) -> None:
    """Copy within the kernel, sharing blocks where the file system can; in user space where the kernel cannot."""
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                pass
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                raise
            reader.seek(0)
            writer.seek(0)
            shutil.copyfileobj(reader, writer, 1 << 20)


def _make_durable(file: Path) -> None:
    file.chmod(0o444)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
