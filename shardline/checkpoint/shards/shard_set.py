"""The manifest of a shard set: what makes the slices of one step, saved by many ranks, one complete thing.

`shard_set-STEP.json` lies beside the ranks' folders and is written last, atomically. A set without it is not
complete: training does not resume from it and merging does not take it. Our own training writes it; for slices that
somebody else's program saved, whatever their names, `adoption` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from shardline.base import atomic
from shardline.base.counts import counted
from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard, MissingShard
from shardline.base.file_names import is_possible
from shardline.base.json_object import read_object

_NAME = re.compile(r"shard_set-(0|[1-9][0-9]{0,17})\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TYPES = {"world_size": int, "step": int, "epoch": int, "integrated": bool}
_SLICE_TYPES = {"rank": int, "size": int, "path": str, "digest": str}
_MOST_LISTED = 16
RANK_FILES, CHECKPOINT2 = "rank files", "checkpoint 2.0"
"""What a set's files are: one a rank; or all of an iteration of MindFormers' Checkpoint 2.0, its metadata.json too."""


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
    the whole model rather than its slices. In a set of `RANK_FILES` the slices are those of ranks 0, 1, …, one each; in
    one of `CHECKPOINT2`, a rank has several files, or none.
    """

    world_size: int
    step: int
    epoch: int
    strategy_digest: str
    configuration_digest: str
    integrated: bool
    slices: tuple[SliceFile, ...]
    files: str = RANK_FILES

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
        document = asdict(self)
        if self.files == RANK_FILES:
            del document["files"]
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    def own_file(self, rank: int) -> SliceFile | None:
        """The file that holds everything of `rank`; `None` where no single file does."""
        return self.slices[rank] if self.files == RANK_FILES and rank < self.world_size else None

    def named(self, path: Path, rank: int) -> SliceFile:
        """What is said of the file at `path`, of `rank` where every rank has one; `CorruptShard` where nothing is."""
        own = self.own_file(rank) or next((i for i in self.slices if PurePosixPath(i.path).name == path.name), None)
        if own is None:
            raise CorruptShard(f"{path}: the manifest of step {self.step} doesn't name it; it was made by hand")
        return own

    @classmethod
    def read(cls, path: Path) -> ShardSet:
        """The manifest at `path`; `MissingShard` where there is none, `CorruptShard` where it is not one."""
        if not path.exists():
            raise MissingShard(f"{path}: there is no such shard set{_what_there_is(path.parent)}")
        document = read_object(path, "manifest")
        try:
            shard_set = cls(**{**document, "slices": tuple(SliceFile(**item) for item in document["slices"])})
        except (TypeError, KeyError) as error:
            raise CorruptShard(f"{path}: this is no manifest of a shard set: {error!s:.200}") from error
        for problem in _problems(shard_set, path):
            raise CorruptShard(f"{path}: {problem}; the manifest is damaged or made by hand")
        return shard_set

    @classmethod
    def steps(cls, directory: Path) -> list[int]:
        """The steps that `directory` holds complete shard sets of, oldest first."""
        names = (_NAME.fullmatch(path.name) for path in directory.glob("shard_set-*.json"))
        return sorted(int(match[1]) for match in names if match)

    @classmethod
    def newest(cls, directory: Path) -> ShardSet | None:
        """The complete shard set of the greatest step in `directory`; `None` where there is none."""
        steps = cls.steps(directory)
        return cls.read(cls.path(directory, steps[-1])) if steps else None

    def verify(self, directory: Path) -> None:
        """Compare every file with its size and digest; `MissingShard` or `CorruptShard` names the rank and the file."""
        for item in self.slices:
            file = self.file_of_its_size(directory, item)
            if (digest := file_digest(file)) != item.digest:
                raise CorruptShard(digest_message(self, item, file, digest))

    def file_of_its_size(self, directory: Path, item: SliceFile) -> Path:
        """Where `item` lies, as `file` has it; `CorruptShard` where it is larger or smaller than it was."""
        file = self.file(directory, item)
        if (size := file.stat().st_size) != item.size:
            raise CorruptShard(
                f"{file} (rank {item.rank}): the manifest of step {self.step} says {counted(item.size, 'byte')}, found "
                f"{size}; restore the file, or take another step"
            )
        return file

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


def _problems(shard_set: ShardSet, path: Path) -> Iterator[str]:
    yield from _wrong_types(shard_set)
    named = _NAME.fullmatch(path.name)
    if named is not None and int(named[1]) != shard_set.step:
        yield f"expected the manifest of step {named[1]}, as it is named, found that of step {shard_set.step}"
    if shard_set.files not in (RANK_FILES, CHECKPOINT2):
        yield f"expected files to be {RANK_FILES!r} or {CHECKPOINT2!r}, found {shard_set.files!r:.100}"
    count = len(shard_set.slices)
    if shard_set.files == CHECKPOINT2:
        if wrong := [item.rank for item in shard_set.slices if not 0 <= item.rank < shard_set.world_size]:
            yield f"expected files of ranks 0 to {shard_set.world_size - 1}, found one of rank {wrong[0]}"
    elif count != shard_set.world_size or any(item.rank != rank for rank, item in enumerate(shard_set.slices)):
        found = [item.rank for item in shard_set.slices[:_MOST_LISTED]]
        listed = f"{found} and {counted(count - _MOST_LISTED, 'other')}" if count > _MOST_LISTED else f"{found}"
        yield f"expected one file for each of ranks 0 to {shard_set.world_size - 1}, found ranks {listed}"
    for item in shard_set.slices:
        parts = PurePosixPath(item.path).parts
        is_within = bool(parts) and not item.path.startswith("/") and ".." not in parts and is_possible(item.path)
        if not is_within or not _DIGEST.fullmatch(item.digest) or item.size < 0:
            yield f"rank {item.rank}: {asdict(item)!s:.300} is no file within the folder with a digest"
    if len({item.path for item in shard_set.slices}) != count:
        yield "two ranks have one file"


def _wrong_types(shard_set: ShardSet) -> Iterator[str]:
    for name in ("world_size", "step", "epoch", "integrated", "strategy_digest", "configuration_digest", "files"):
        kind = _TYPES.get(name, str)
        if type(value := getattr(shard_set, name)) is not kind:
            yield f"expected {name} to be {kind.__name__}, found {value!r:.100}"
    for item in shard_set.slices:
        for name, kind in _SLICE_TYPES.items():
            if type(value := getattr(item, name)) is not kind:
                yield f"expected {name} to be {kind.__name__}, found {value!r:.100}"


def _what_there_is(directory: Path) -> str:
    steps = ShardSet.steps(directory) if directory.is_dir() else []
    return f"; there are those of steps {steps}" if steps else "; the folder holds no complete shard set"
