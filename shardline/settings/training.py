"""What a training's description may say: the keys of its file, each with its type, its limits and its default.

    docs/own-training.md        every key, with examples, and what is said where one is wrong

Whoever triggers the DAG chooses values of the declared `parameters`, never a command. This module imports neither
Airflow, MindSpore nor NumPy: DAG files read descriptions whenever they are parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from typing_extensions import Self

from shardline.settings.declared_parameter import DeclaredParameter, compiled
from shardline.settings.export_mapping import check_export_mapping
from shardline.settings.parameters import Parameters, PlainName
from shardline.settings.placeholders import names_in
from shardline.settings.upload_address import check_upload_address

OF_A_RUN = ("run_directory", "training_folder", "ranks", "python")
"""What every command has: the run's folder, the description's folder, the number of ranks, the task's own Python."""
OF_A_RANK = ("rank",)
OF_RESUMING = ("resume_from", "resume_step", "resume_epoch", "resume_slice", "resume_manifest")
"""The newest complete shard set: its folder, step, epoch, this rank's own file, its manifest; empty without one."""
OF_MERGING = ("merged_file", "step")
"""The merged model, and the step that it was saved at."""
LOG_FIELDS = ("epoch", "step", "steps_per_epoch", "loss", "learning_rate")
OF_THE_PIPELINE = (
    "checkpoint_step",
    "merged_format",
    "weights_only",
    "champion_margin",
    "approval",
    "upload_to",
    "hugging_face_export",
    "hostfile",
    "hang_timeout",
)
"""Parameters that every training's form has."""
_TAKEN = frozenset((*OF_A_RUN, *OF_A_RANK, *OF_RESUMING, *OF_MERGING, *OF_THE_PIPELINE, "training", "values"))


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _glob(pattern: str) -> str:
    parts = PurePosixPath(pattern).parts
    if not parts or pattern.startswith("/") or ".." in parts or "\0" in pattern:
        raise ValueError("expected a path or a pattern (*, ?, [ab], **) relative to the run directory, without '..'")
    return pattern


Globs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several)]
Words = Annotated[tuple[str, ...], Field(min_length=1)]


class Slices(Parameters):
    """Where the ranks' slices and the strategy files appear, as patterns relative to the run directory.

    `integrated`: every rank saves the whole model. Without strategies and that, slices are MindFormers' Checkpoint 2.0.
    `settled_after`: for how many seconds slices have to be unchanged, while the program runs, to be taken as written.
    `steps_per_epoch`: how many steps an epoch has, where slices are named by epoch and step and hold no counter.
    """

    files: Globs
    strategies: Globs = ()
    integrated: bool = False
    settled_after: int = Field(default=10, ge=1, le=86_400)
    steps_per_epoch: int | str | None = None

    @field_validator("files", "strategies")
    @classmethod
    def _relative(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_glob, globs))

    @field_validator("files")
    @classmethod
    def _some(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        if not globs:
            raise ValueError("expected at least one pattern")
        return globs

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.integrated and self.strategies:
            raise ValueError("integrated says that every rank saves the whole model: leave strategies out, or that")
        return self

    @property
    def folder(self) -> str:
        """The innermost folder, relative to the run directory, that all of `files` lie below: `.` for that itself.

        There the manifests of shard sets lie.
        """
        fixed = [_fixed_parts(glob) for glob in self.files]
        common = []
        for parts in zip(*fixed, strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        return "/".join(common) or "."


def _fixed_parts(glob: str) -> tuple[str, ...]:
    """The folders of a pattern before the first that has a wildcard."""
    parts = PurePosixPath(glob).parts[:-1]
    wild = next((number for number, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    return parts[:wild]


class Log(Parameters):
    """How a line of a rank's log tells how far training is.

    `patterns` are regular expressions with named groups among `LOG_FIELDS`, each searched for in every line; or with
    `format = "json"` a line is a JSON object, of which `keys` names the fields. With `steps_per_epoch`, a step is
    counted within its epoch. `rank` is whose log tells it, -1 the last rank's.
    """

    format: Literal["text", "json"] = "text"
    patterns: tuple[str, ...] = ()
    keys: dict[str, str] = Field(default_factory=dict)
    rank: int = Field(default=0, ge=-1)
    largest_mib: int = Field(default=256, ge=1, le=1_048_576)
    """What is kept of a rank's log, in MiB: its beginning and its end."""

    @field_validator("patterns")
    @classmethod
    def _name_fields(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            groups = compiled(pattern).groupindex
            if unknown := [name for name in groups if name not in LOG_FIELDS]:
                raise ValueError(f"{pattern!r} has the group {unknown[0]}; known are {', '.join(LOG_FIELDS)}")
            if not groups:
                raise ValueError(
                    f"{pattern!r} has no named group such as (?P<loss>...); known are {', '.join(LOG_FIELDS)}"
                )
        return patterns

    @field_validator("keys")
    @classmethod
    def _keys_of_fields(cls, keys: dict[str, str]) -> dict[str, str]:
        if unknown := [name for name in keys if name not in LOG_FIELDS]:
            raise ValueError(f"{unknown[0]} is none of {', '.join(LOG_FIELDS)}")
        return keys

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.format == "json" and self.patterns:
            raise ValueError("patterns are for format 'text'; for 'json' name the objects' keys in keys")
        if self.format == "text" and self.keys:
            raise ValueError("keys are for format 'json'; for 'text' give patterns")
        return self


class Resume(Parameters):
    """How to go on: `arguments`, which the command gets behind its own where a complete shard set exists.

    `by_itself`: the program finds its newest save without being told.
    """

    arguments: tuple[str, ...] = ()
    by_itself: bool = False


class Stop(Parameters):
    """How to stop: the `signal` that every rank gets, and how many seconds it has to leave (`grace`).

    `hang_timeout`: after so many seconds without a line of log or a step of any rank the training is given up.
    """

    signal: Literal["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"] = "SIGTERM"
    grace: int = Field(default=30, ge=0, le=86_400)
    hang_timeout: int | None = Field(default=None, ge=1)


class Validate(Parameters):
    """How to judge the merged model: a `command` whose last line is a JSON object of metrics, and their limits.

    `metric` is the one that versions carry; without it, the first that has a limit.
    """

    command: tuple[str, ...] = ()
    minimum: dict[str, float] = Field(default_factory=dict)
    maximum: dict[str, float] = Field(default_factory=dict)
    metric: str | None = None
    timeout: int = Field(default=3600, ge=1)

    @model_validator(mode="after")
    def _has_command(self) -> Self:
        if not self.command and (self.minimum or self.maximum or self.metric):
            raise ValueError("minimum, maximum and metric are of the metrics that a command prints: give command, too")
        if both := sorted(self.minimum.keys() & self.maximum.keys()):
            raise ValueError(f"{both[0]} has a minimum and a maximum: which of two models is better would be open")
        if self.command and self.chosen_metric is None:
            raise ValueError("give a minimum or a maximum of some metric, or name in metric which one versions carry")
        return self

    @property
    def chosen_metric(self) -> str | None:
        """The metric that versions carry."""
        return self.metric or next(iter((*self.minimum, *self.maximum)), None)

    @property
    def higher_is_better(self) -> bool:
        """Of the metric that versions carry."""
        return self.chosen_metric not in self.maximum


class Pipeline(Parameters):
    """What the form's fields of these names begin with: how slices are merged, and how a model is promoted."""

    merged_format: Literal["ckpt", "safetensors"] = "ckpt"
    weights_only: bool = False
    champion_margin: float | None = Field(default=None, ge=0)
    approval: bool = False
    upload_to: str | None = None
    hugging_face_export: str | None = None

    @model_validator(mode="after")
    def _upload(self) -> Self:
        check_upload_address(self.upload_to)
        return self

    @model_validator(mode="after")
    def _export(self) -> Self:
        check_export_mapping(self.hugging_face_export, None)
        return self


class Schedule(Parameters):
    """When the training runs by itself, with its parameters' defaults: by a cron expression, or when data is announced.

    `on_dataset`: whenever the asset `shardline-dataset` is updated.
    """

    cron: str = ""
    timezone: str = "UTC"
    on_dataset: bool = False


class Training(Parameters):
    """One training, whoever wrote it: how it is started, watched, stopped, resumed, merged and judged."""

    name: PlainName
    command: Words
    slices: Slices
    description: str = ""
    launcher: Literal["mpirun", "msrun", "none"] = "mpirun"
    ranks: int | str = 1
    device: Literal["CPU", "GPU", "Ascend"] = "CPU"
    working_directory: str = "{training_folder}"
    environment: dict[str, str] = Field(default_factory=dict)
    model_name: PlainName | None = None
    parameters: dict[str, DeclaredParameter] = Field(default_factory=dict)
    log: Log = Field(default_factory=Log)
    resume: Resume = Field(default_factory=Resume)
    stop: Stop = Field(default_factory=Stop)
    pipeline: Pipeline = Field(default_factory=Pipeline)
    schedule: Schedule = Field(default_factory=Schedule)
    # `validate` is pydantic's own, of every model.
    validation: Validate = Field(default_factory=Validate, alias="validate")

    @property
    def model(self) -> str:
        """The model store's name for what this makes."""
        return self.model_name or self.name

    @property
    def goes_on(self) -> bool:
        """Whether a next try goes on from the newest shard set; otherwise the program starts anew."""
        told = (*self.command, *self.environment.values())
        names = {name for text in told for name in names_in(text)}
        return self.resume.by_itself or bool(self.resume.arguments) or not names.isdisjoint(OF_RESUMING)

    def world_size(self, values: Mapping[str, Any]) -> int:
        """How many ranks there are for these values of the parameters."""
        return self.ranks if isinstance(self.ranks, int) else int(values[names_in(self.ranks)[0]])

    def steps_per_epoch(self, values: Mapping[str, Any]) -> int | None:
        """How many steps an epoch has for these values of the parameters, where the description says it."""
        steps = self.slices.steps_per_epoch
        return int(values[names_in(steps)[0]]) if isinstance(steps, str) else steps

    @field_validator("parameters")
    @classmethod
    def _named(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for name in parameters:
            if not name.isidentifier() or not name.isascii() or name.startswith("_"):
                raise ValueError(f"{name!r}: expected a name of letters, digits and _, beginning with a letter")
            if name in _TAKEN or hasattr(Parameters, name):
                raise ValueError(f"{name} is the name of something else already; choose another")
        return parameters
