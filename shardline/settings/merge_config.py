"""The parameters of the DAG `merge_checkpoint`: any shard set, with any option of the merge.

This module is imported whenever the DAG file is parsed: neither NumPy nor the merge itself.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from shardline.base.sizes import PATTERN
from shardline.settings.parameters import Parameters, PlainName, Texts

RECORD_TYPES = {"float32": "float32", "float16": "float16 (half)", "bfloat16": "bfloat16"}
_SELECTION: dict[str, Any] = {"section": "Which tensors"}
_OUTPUT: dict[str, Any] = {"section": "Output"}
_CHECKS: dict[str, Any] = {"section": "Checks"}


class MergeCheckpointConfig(Parameters):
    """What to merge, which of it, and into what."""

    run: str | None = Field(
        None,
        title="Run",
        description="The run whose slices to merge, by its id, as Airflow shows and copies it: "
        "**manual__2026-01-31T09:00:00+00:00**; or as DAG/RUN, where several DAGs have one of that id.",
    )
    shards: str | None = Field(
        None,
        title="Folder of slices",
        description="Instead of a run: a folder that holds rank_0, rank_1, …, in SHARDLINE_HOME or below "
        "SHARDLINE_ALLOWED_ROOTS.",
    )
    strategy: Texts = Field(
        (),
        title="Strategy files",
        description="For a folder: one file a pipeline stage, a line each; none for Checkpoint 2.0. A run has its own.",
    )
    step: str | None = Field(
        None, title="Step", description="Global step (with manifests), EPOCH_STEP or STEP. Empty: the newest."
    )
    prefix: str | None = Field(
        None,
        title="Prefix",
        description="For a folder: of several trainings' files, those of this prefix or name, which may be a pattern.",
    )
    integrated: bool = Field(
        False, title="Integrated", description="For a folder: every rank saved the whole model instead of its slices."
    )

    name: PlainName = Field(
        "model", title="Name", description="Of the output, without suffix.", json_schema_extra=_OUTPUT
    )
    format: Literal["ckpt", "safetensors"] = Field(
        "ckpt",
        title="Format",
        json_schema_extra=_OUTPUT | {"values_display": {"ckpt": "MindSpore .ckpt", "safetensors": ".safetensors"}},
    )
    target_strategy: Texts = Field(
        (),
        title="Target strategy files",
        description="Instead of one checkpoint: slices for these strategies, one file a pipeline stage, a line each.",
        json_schema_extra=_OUTPUT,
    )
    max_file_size: str | None = Field(
        None,
        title="Largest file",
        description="Several .safetensors and an index, of at most this size each: **60KB**, **5gb**, **512MiB**.",
        pattern=PATTERN,
        json_schema_extra=_OUTPUT,
    )
    crc: bool = Field(
        False, title="Checksum", description="End a .ckpt with MindSpore's CRC-32.", json_schema_extra=_OUTPUT
    )

    weights_only: bool = Field(
        False, title="Weights only", description="Leave optimizer states out.", json_schema_extra=_SELECTION
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None,
        title="Cast to",
        description="Cast floating-point tensors. Empty: as they are.",
        json_schema_extra=_SELECTION | {"values_display": RECORD_TYPES | {"null": "As they are"}},
    )
    include: Texts = Field(
        (),
        title="Include",
        description="Keep only tensors whose names match one of these patterns, a line each: **layer1.***",
        json_schema_extra=_SELECTION,
    )
    exclude: Texts = Field(
        (),
        title="Exclude",
        description="Leave out tensors whose names match one of these.",
        json_schema_extra=_SELECTION,
    )
    rename: str | None = Field(
        None,
        title="Rules for names",
        description="A file with PATTERN = REPLACEMENT a line, in SHARDLINE_HOME or below SHARDLINE_ALLOWED_ROOTS.",
        json_schema_extra=_SELECTION,
    )

    allow_non_finite: bool = Field(
        False, title="Accept NaN and infinities", description="Otherwise refused.", json_schema_extra=_CHECKS
    )
    proof: bool = Field(
        True,
        title="Proof",
        description="Read the output again and compare it with every slice. Off: replicas alone are compared.",
        json_schema_extra=_CHECKS,
    )

    @field_validator("strategy", "target_strategy", "include", "exclude", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if (self.run is None) == (self.shards is None):
            raise ValueError("run and shards: give one of them, to say which slices to merge")
        if self.run is not None and self.strategy:
            raise ValueError("strategy: a run knows its own; leave it empty, or give shards instead of run")
        if self.run is not None and self.prefix is not None:
            raise ValueError("prefix: a run's manifest says which files are its own; leave it empty")
        if self.run is not None and self.integrated:
            raise ValueError("integrated: a run's manifest says so itself; leave it off")
        if self.max_file_size is not None and self.format != "safetensors":
            raise ValueError("max_file_size: only .safetensors are split; choose format 'safetensors'")
        if self.crc and self.format != "ckpt":
            raise ValueError("crc: only a .ckpt ends with it; choose format 'ckpt'")
        self._of_a_target()
        return self

    def _of_a_target(self) -> None:
        if not self.target_strategy:
            return
        for name in ("max_file_size", "crc"):
            if getattr(self, name):
                raise ValueError(f"{name}: not with target_strategy, which makes a file for each rank; leave it empty")
        if self.integrated:
            raise ValueError("integrated: slices for a target_strategy are cut from slices; leave one of them out")
        if not self.proof:
            raise ValueError("proof: slices for a target_strategy are always proved; leave it on")
