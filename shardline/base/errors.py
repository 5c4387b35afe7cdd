"""The project's exceptions: one small tree.

Every message says what was expected, what was found, where (file, rank, parameter) and what to do. A task that
fails prints that message last, without a traceback (`shardline.run.command_line`). An exception outside this tree is a
defect of ours and keeps its traceback.

A class keeps its name on the way from a rank to the task that started it (`kind_of`, `class_of_kind`), and decides the
exit code of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from shardline.base.exit_codes import (
    BAD_PARAMETERS,
    CHANGED_SINCE_SIGNING,
    DECLINED,
    FAILED,
    NOT_SIGNED,
    SIGNED_BY_ANOTHER,
    STOPPED,
)


class ShardlineError(Exception):
    """Root of the tree: a failure that its message explains to the user."""

    exit_code: ClassVar[int] = FAILED


class ConfigError(ShardlineError):
    """A parameter is unknown, out of range, or clashes with another."""

    exit_code = BAD_PARAMETERS


class DatasetError(ShardlineError):
    """A data set is missing, damaged or cannot be downloaded."""


class LaunchError(ShardlineError):
    """mpirun or one of its ranks could not be started, or failed."""


class RunDirectoryError(ShardlineError):
    """The run directory is missing, locked by another process, or lacks what an earlier task should have left."""


class TrainingError(ShardlineError):
    """A rank cannot build, shard, train or save the network."""


class Stopped(ShardlineError):
    """SIGTERM came, and all ranks have saved a shard set and left: the next try goes on from there."""

    exit_code = STOPPED


class ValidationError(ShardlineError):
    """The merged model is worse than asked, or not the model that was trained."""


class PromotionError(ShardlineError):
    """A validated model cannot become a version of the model store."""


class ChampionStays(PromotionError):
    """The validated model is not better than the current one: nothing is wrong, and nothing is promoted."""

    exit_code = DECLINED


class AlreadyAVersion(PromotionError):
    """The validated model is, byte for byte, a version that another run made: nothing is wrong, nothing is new."""

    exit_code = DECLINED


class SignatureError(ShardlineError):
    """A version is not what the holder of a key signed."""


class NotSigned(SignatureError):
    """There is no signature beside the version's files."""

    exit_code = NOT_SIGNED


class SignedByAnother(SignatureError):
    """The signature beside the version's files is by another key."""

    exit_code = SIGNED_BY_ANOTHER


class ChangedSinceSigning(SignatureError):
    """The version's files, or their signature, are not those that were signed."""

    exit_code = CHANGED_SINCE_SIGNING


class UploadError(ShardlineError):
    """A version cannot be brought to an object storage, or is not there what it is in the model store."""


class ExportError(ShardlineError):
    """An exported version does not load, or does not compute what the version computes."""


class TrackingError(ShardlineError):
    """MLflow cannot be told of a run; `code` is MLflow's own, empty where it has not answered."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CheckpointError(ShardlineError):
    """A checkpoint, a strategy file or a shard set cannot be used."""


class MissingShard(CheckpointError):
    """A rank's directory, slice file or parameter is not there."""


class CorruptShard(CheckpointError):
    """A file's bytes are damaged: truncated, malformed, or not those that the manifest names."""


class StepMismatch(CheckpointError):
    """The slices come from different steps."""


class ReplicaMismatch(CheckpointError):
    """Two ranks that hold the same slice hold different values."""


class LayoutError(CheckpointError):
    """The strategy and the slices contradict each other, or the strategy contradicts itself."""


class UnsupportedFormat(CheckpointError):
    """A well-formed file uses something that is refused by name: encryption, map tensors, an unknown type."""


class NonFiniteValue(CheckpointError):
    """A NaN or an infinity where none was allowed."""


class OutputError(CheckpointError):
    """The output cannot be written: no space, no permission, or another process is writing it."""


class ProofError(CheckpointError):
    """The written output is not what its slices or its digests say."""


def kind_of(error: BaseException) -> str:
    """The name of the class of this tree that `error` is; empty where it is none."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__), "")


def class_of_kind(name: str) -> type[ShardlineError] | None:
    """The class of this tree that `kind_of` named; None for another text."""
    return next((kind for kind in _tree(ShardlineError) if kind.__name__ == name), None)


def _tree(root: type[ShardlineError]) -> Iterator[type[ShardlineError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == __name__:
            yield from _tree(child)
