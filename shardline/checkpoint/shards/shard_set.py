"""The manifest of a shard set: what makes the slices of one step, saved by many ranks, one complete thing.

`shard_set-STEP.json` lies beside the ranks' folders and is written last, atomically. A set without it is not
complete: training does not resume from it and merging does not take it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard, MissingShard

_NAME = re.compile(r"^shard_set-(\d+)\.json$")
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_BUFFER = 1 << 20


@dataclass(frozen=True)
class SliceFile:
    """One rank's file: its path within the checkpoints' folder, its size in bytes, its BLAKE3 digest in hex."""

    rank: int
    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class ShardSet:
    """All ranks' slices of one global `step`.

    `configuration_digest` is of whatever must be equal to resume from here. `integrated` says that every rank saved
    the whole model rather than its slices.
    """

    world_size: int
    step: int
    epoch: int
    strategy_digest: str
    configuration_digest: str
    integrated: bool
    slices: tuple[SliceFile, ...]

    @staticmethod
    def path(directory: Path, step: int) -> Path:
        """Where the manifest of `step` lies."""
        return directory / f"shard_set-{step}.json"

    def write(self, directory: Path) -> Path:
        """Make the set visible in `directory`, and return the manifest's path."""
        path = self.path(directory, self.step)
        atomic.write_text(path, self.encode())
        return path

    def encode(self) -> str:
        """The manifest as it stands in its file."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> ShardSet:
        """The manifest at `path`; `MissingShard` where there is none, `CorruptShard` where it is not one."""
        try:
            document = json.loads(path.read_bytes())
            shard_set = cls(**{**document, "slices": tuple(SliceFile(**item) for item in document["slices"])})
        except FileNotFoundError as error:
            raise MissingShard(f"{path}: there is no such shard set{_what_there_is(path.parent)}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CorruptShard(f"{path}: this is no manifest of a shard set: {error}") from error
        _check(shard_set, path)
        return shard_set

    @classmethod
    def steps(cls, directory: Path) -> list[int]:
        """The steps that `directory` holds complete shard sets of, oldest first."""
        names = (_NAME.match(path.name) for path in directory.glob("shard_set-*.json"))
        return sorted(int(match[1]) for match in names if match)

    @classmethod
    def newest(cls, directory: Path) -> ShardSet | None:
        """The complete shard set of the greatest step in `directory`; `None` where there is none."""
        steps = cls.steps(directory)
        return cls.read(cls.path(directory, steps[-1])) if steps else None

    def verify(self, directory: Path) -> None:
        """Compare every file with its size and digest; `MissingShard` or `CorruptShard` names the rank and the file."""
        for item in self.slices:
            file = self.file(directory, item)
            if (size := file.stat().st_size) != item.size:
                raise CorruptShard(
                    f"{file} (rank {item.rank}): the manifest of step {self.step} says {item.size} bytes, found "
                    f"{size}; restore the file, or take another step"
                )
            if (digest := file_digest(file)) != item.digest:
                raise CorruptShard(digest_message(self, item, file, digest))

    def file(self, directory: Path, item: SliceFile) -> Path:
        """Where `item` lies: a regular file inside `directory`, wherever symbolic links lead."""
        file = directory / item.path
        if not file.is_file():
            raise MissingShard(
                f"{file}: the slices of rank {item.rank} at step {self.step} are not there, though the manifest names "
                "them; restore the file, or take another step"
            )
        if not file.resolve().is_relative_to(directory.resolve()):
            raise CorruptShard(f"{file} (rank {item.rank}) leads out of {directory}, to {file.resolve()}")
        return file


def digest_message(shard_set: ShardSet, item: SliceFile, file: Path, digest: str) -> str:
    """What to say where a file's content is not what the manifest names."""
    twin = next((other for other in shard_set.slices if other.digest == digest), None)
    hint = f"; it is the file of rank {twin.rank}: were folders swapped?" if twin else ""
    return (
        f"{file} (rank {item.rank}): expected the digest {item.digest[:16]}… of the manifest of step {shard_set.step}, "
        f"found {digest[:16]}…{hint}; the file was changed after it was saved: restore it, or take another step"
    )


def _check(shard_set: ShardSet, path: Path) -> None:
    for problem in _problems(shard_set):
        raise CorruptShard(f"{path}: {problem}; the manifest is damaged or made by hand")


def _problems(shard_set: ShardSet) -> list[str]:
    problems = [
        f"expected {name} to be {kind.__name__}, found {value!r}"
        for name, kind, value in _typed_fields(shard_set)
        if type(value) is not kind
    ]
    if problems:
        return problems
    if [item.rank for item in shard_set.slices] != list(range(shard_set.world_size)):
        found = [item.rank for item in shard_set.slices]
        problems.append(f"expected one file for each of ranks 0 to {shard_set.world_size - 1}, found ranks {found}")
    for item in shard_set.slices:
        parts = PurePosixPath(item.path).parts
        if not parts or item.path.startswith("/") or ".." in parts or not _DIGEST.match(item.digest) or item.size < 0:
            problems.append(f"rank {item.rank}: {asdict(item)} is no file within the folder with a digest")
    return problems


def _typed_fields(shard_set: ShardSet) -> list[tuple[str, type, Any]]:
    kinds: dict[str, type] = {"world_size": int, "step": int, "epoch": int, "integrated": bool}
    fields: list[tuple[str, type, Any]] = [
        (name, kinds.get(name, str), getattr(shard_set, name))
        for name in ("world_size", "step", "epoch", "integrated", "strategy_digest", "configuration_digest")
    ]
    for item in shard_set.slices:
        fields += [("rank", int, item.rank), ("size", int, item.size), ("path", str, item.path)]
        fields.append(("digest", str, item.digest))
    return fields


def _what_there_is(directory: Path) -> str:
    steps = ShardSet.steps(directory) if directory.is_dir() else []
    return f"; there are those of steps {steps}" if steps else "; the folder holds no complete shard set"
