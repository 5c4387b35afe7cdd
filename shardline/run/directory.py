"""The run directory: everything that one DAG run leaves on disk, and where.

    config.json                  the validated parameters
    dataset.json                 where the data is, its digest and counts
    code.json                    which commits of Shardline and of the user's program made the model
    src_strategy.ckpt            the parallel strategy; of several pipeline stages, all of theirs in one file
    src_strategy_stage_N.ckpt    the strategy of one of several pipeline stages, as MindSpore's compiler wrote it
    src_checkpoints/rank_N/checkpoint-EPOCH_STEP.ckpt
    src_checkpoints/shard_set-STEP.json
    src_checkpoints/provenance/  the strategies and the configuration that the shard sets were made with
    log_output/1/rank.N/stdout
    metrics.jsonl                every step's loss, every epoch's throughput
    tensorboard/                 the same as TensorBoard's event files
    cards.json                   since when the newest try of training has asked for cards, and held which
    start.json                   the model or the run whose values training began with, where it did not begin anew
    train.json                   where training's time went
    reference_logits.npz         what the sharded ranks computed at the end of training
    merged/                      the integrated checkpoint NAME and NAME.merge.json, its proof
    resharded/                   instead of that: slices for another strategy, and reshard.json
    validation/                  report.json, report.md and plots
    promotion.json               which version the model became
    failures/TASK.json           what stopped a task, until it succeeds

Run directories lie under `HOME/runs/DAG/RUN`, prepared data under `HOME/data`, the model store under `HOME/models`.
HOME is one folder that all workers share.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from shardline.base import atomic
from shardline.base.errors import RunDirectoryError
from shardline.base.file_lock import LocksUnsupported, lock

if TYPE_CHECKING:
    from shardline.settings.run_config import RunConfig
    from shardline.settings.training_config import TrainingConfig

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LEAVING = re.compile(r"(?P<pid>\d+) leaves before (?P<time>\d+)")
_LOCK_POLL_S = 0.5


@dataclass(frozen=True)
class Home:
    """The folder that all workers share."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def models(self) -> Path:
        return self.path / "models"

    def export(self, model: str, version: int) -> Path:
        """The folder of a version of `model` that was exported for Hugging Face."""
        return self.models / model / "exports" / str(version)

    def run(self, dag_id: str, run_id: str) -> Path:
        """The run directory of one DAG run; different runs never share one."""
        return self.path / "runs" / _folder_name(dag_id) / _folder_name(run_id)

    def runs_named(self, name: str) -> list[Path]:
        """The run directories that `name` may mean: of DAG/RUN that one, be it there or not; of a run's id alone, as
        Airflow shows it, those of every DAG that has such a run.
        """
        dag_id, separator, run_id = name.rpartition("/")
        if separator:
            return [self.run(dag_id, run_id)]
        return sorted(
            folder for folder in self.path.glob(f"runs/*/{glob.escape(_folder_name(name))}") if folder.is_dir()
        )


def _folder_name(identifier: str) -> str:
    """`identifier` as a file name: unsafe characters become `_`, and a digest behind `~` keeps what they were apart."""
    safe = _UNSAFE.sub("_", identifier)[:120]
    if safe == identifier and not safe.startswith("."):
        return safe
    return f"{safe.lstrip('.')}~{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class RunDirectory:
    """One run's files, by name."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def dataset_file(self) -> Path:
        return self.path / "dataset.json"

    @property
    def code_file(self) -> Path:
        return self.path / "code.json"

    @property
    def network_file(self) -> Path:
        """The compiled graph of a cell of the user's own, with its parameters' first values."""
        return self.path / "network.mindir"

    @property
    def checkpoints(self) -> Path:
        return self.path / "src_checkpoints"

    @property
    def logs(self) -> Path:
        return self.path / "log_output" / "1"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def event_files(self) -> Path:
        return self.path / "tensorboard"

    @property
    def cards_file(self) -> Path:
        return self.path / "cards.json"

    @property
    def start_file(self) -> Path:
        return self.path / "start.json"

    @property
    def train_file(self) -> Path:
        return self.path / "train.json"

    @property
    def reference_logits_file(self) -> Path:
        return self.path / "reference_logits.npz"

    @property
    def merged(self) -> Path:
        return self.path / "merged"

    @property
    def resharded(self) -> Path:
        return self.path / "resharded"

    @property
    def validation(self) -> Path:
        return self.path / "validation"

    @property
    def merge_file(self) -> Path:
        """The record of the run's merge, of whatever name its output has; where it is yet to be written, the usual one.

        There are two for the instant in which one output takes the place of another: the newer one counts.
        """
        try:
            records = sorted(self.merged.glob("*.merge.json"), key=lambda path: path.lstat().st_mtime_ns)
        except FileNotFoundError:  # one went meanwhile
            return self.merge_file
        earlier = self.merged / "merge.json"  # as an earlier Shardline named it
        return records[-1] if records else earlier if earlier.is_file() else self.merged / "model.ckpt.merge.json"

    @property
    def report_file(self) -> Path:
        return self.validation / "report.json"

    @property
    def promotion_file(self) -> Path:
        return self.path / "promotion.json"

    def strategy_file(self, config: RunConfig) -> Path:
        return self.path / config.strategy_save_file

    def stage_strategy_file(self, config: RunConfig, stage: int) -> Path:
        """The strategy file of one of several pipeline stages."""
        whole = self.strategy_file(config)
        return whole.with_name(f"{whole.stem}_stage_{stage}{whole.suffix}")

    def strategy_saved_with(self, digest: str) -> Path:
        """The strategy file of the shard sets whose manifests name its `digest`."""
        return self.checkpoints / "provenance" / f"strategy-{digest}"

    def configuration_saved_with(self, digest: str) -> Path:
        """What decided the weights of the shard sets whose manifests name its `digest`, JSON."""
        return self.checkpoints / "provenance" / f"configuration-{digest}"

    def merged_file(self, config: RunConfig | TrainingConfig) -> Path:
        return self.merged / f"model.{config.merged_format}"

    def rank_log(self, rank: int) -> Path:
        return self.logs / f"rank.{rank}" / "stdout"

    def rank_status(self, rank: int) -> Path:
        return self.logs / f"rank.{rank}" / "status.json"

    def sibling(self, run: str) -> RunDirectory:
        """The directory of another run of the same DAG, by its run id; or the one at an absolute path."""
        return RunDirectory(self.path.parent / (run if Path(run).is_absolute() else _folder_name(run)))

    def write_config(self, config: RunConfig | TrainingConfig) -> None:
        atomic.write_text(self.config_file, config.to_json())

    def read_config(self) -> RunConfig:
        """The run's parameters, as the first task validated them."""
        from shardline.settings.run_config import RunConfig  # pydantic, which a merge by hand does without

        return RunConfig.from_json(self.read(self.config_file, "prepare_dataset"))

    def read_any_config(self) -> RunConfig | TrainingConfig:
        """The same of any run of the pipeline: of one whose training is described by a file, too."""
        from shardline.settings.training_config import TrainingConfig

        content = self.read(self.config_file, "prepare_dataset")
        try:
            described = "training" in json.loads(content)
        except (ValueError, TypeError, RecursionError):
            described = False
        return TrainingConfig.from_json(content) if described else self.read_config()

    def dataset_digest(self) -> str:
        """The digest of all the data that the run was prepared with; `RunDirectoryError` unless it is there."""
        try:
            return str(json.loads(self.read(self.dataset_file, "prepare_dataset"))["digest"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunDirectoryError(
                f"{self.dataset_file}: expected the description that prepare_dataset writes, found something else "
                f"({error!r}); run prepare_dataset again"
            ) from error

    def read(self, file: Path, task: str) -> bytes:
        """The content of `file`, which the named earlier task should have left."""
        try:
            return file.read_bytes()
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{file} is missing: the task {task} writes it; run that first") from error

    @contextmanager
    def lock(self) -> Iterator[Lock]:
        """Hold the run directory for one task.

        Waits for another process that has said that it is leaving, as a cleared training does while it saves;
        `RunDirectoryError` where another process holds it otherwise.
        """
        try:
            atomic.make_directory(self.path)
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot be made: {error.strerror}; choose another place") from error
        with (self.path / ".lock").open("a+") as file:
            self._wait_for(file)
            lock = Lock(file)
            lock.say(str(os.getpid()))
            yield lock

    def _wait_for(self, file: IO[str]) -> None:
        """Take the lock on `file`, from a process that leaves too."""
        told = ""
        while (holder := _holder_of(file)) is not None:
            leaving = _LEAVING.match(holder)
            if holder and not (leaving and time.time() <= int(leaving["time"])):  # nothing yet: it is being written
                raise RunDirectoryError(
                    f"{self.path} is in use by process {holder}; wait until it ends, or end it, then try again"
                )
            if leaving and holder != told:
                print(f"waiting for the try before: process {leaving['pid']} saves and leaves", file=sys.stderr)
                told = holder
            time.sleep(_LOCK_POLL_S)


@dataclass(frozen=True)
class Lock:
    """A run directory that this process holds."""

    file: IO[str]

    def leave_within(self, seconds: float) -> None:
        """Have others wait for the run directory, since it will be free in at most `seconds` seconds."""
        self.say(f"{os.getpid()} leaves before {int(time.time() + seconds) + 1}")

    def say(self, holder: str) -> None:
        """Write who holds it."""
        self.file.truncate(0)
        self.file.write(f"{holder}\n")
        self.file.flush()


def _holder_of(file: IO[str]) -> str | None:
    """What the process that holds `file` says of itself; None where nobody did, and this process does now."""
    try:
        if lock(file):
            return None
    except LocksUnsupported as error:
        raise RunDirectoryError(f"{file.name}: {error.strerror}") from error
    file.seek(0)
    return file.read().strip()
