"""The parameters of a run: one document, declared once.

`RunConfig` is the schema of the trigger form (`form_schema`), of the JSON document that the DAG passes to its tasks,
and of `config.json` in the run directory. Unknown keys are refused everywhere. This module imports neither Airflow
nor MindSpore: the DAG file imports it whenever it is parsed.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.errors import ConfigError

BUILT_IN_NETWORKS = ("mlp",)

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_NETWORK = rf"^({'|'.join(BUILT_IN_NETWORKS)}|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*)$"


class RunConfig(BaseModel):
    """Everything that a user chooses for one run of the pipeline."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    network: str = Field(
        "mlp",
        title="Network",
        description="**mlp**: a classifier of digits. **package.module:factory**: a network of your own.",
        pattern=_NETWORK,
        examples=list(BUILT_IN_NETWORKS),
    )
    data_source: Literal["embedded", "directory", "mnist"] = Field(
        "embedded",
        title="Data source",
        description="**embedded**: 5,000 MNIST digits that come with the installation. **directory**: IDX files (raw "
        "or .gz) in *Data directory*. **mnist**: the 70,000 digits of MNIST, downloaded from *Mirrors*.",
    )
    data_directory: str | None = Field(
        None,
        title="Data directory",
        description="For the source **directory**: a folder with the four IDX files of MNIST or Fashion-MNIST.",
    )
    device_target: Literal["CPU", "GPU", "Ascend"] = Field("CPU", title="Device")
    world_size: int = Field(8, ge=1, le=4096, title="Cards (ranks)", description="How many ranks mpirun starts.")
    epochs: int = Field(5, ge=1, le=100_000, title="Epochs")
    batch_size: int = Field(
        32, ge=1, le=1_048_576, title="Batch size", description="Samples a step, over all ranks together."
    )
    optimizer: Literal["SGD", "Momentum", "Adam"] = Field("Adam", title="Optimizer")
    learning_rate: float = Field(0.001, gt=0, le=10, title="Learning rate")
    min_accuracy: float = Field(
        0.9, ge=0, le=1, title="Minimum accuracy", description="Validation fails below it, and nothing is promoted."
    )

    mirrors: tuple[str, ...] = Field(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        title="Mirrors",
        description="For the source **mnist**: where to download from, in this order.",
        json_schema_extra={"section": "Data"},
    )

    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        title="Momentum",
        description="For the optimizer **Momentum** only.",
        json_schema_extra={"section": "Training"},
    )
    seed: int = Field(1, ge=0, le=2**31 - 1, title="Seed", json_schema_extra={"section": "Training"})
    start_from: Literal["scratch", "current"] = Field(
        "scratch",
        title="Start from",
        description="**current**: the weights of the model store's current version; optimizer states start anew.",
        json_schema_extra={"section": "Training"},
    )
    master_port: int | None = Field(
        None,
        ge=1024,
        le=65535,
        title="Master port",
        description="Where rank 0 listens for the others. Empty: any free port.",
        json_schema_extra={"section": "Training"},
    )

    hang_timeout: int | None = Field(
        None,
        ge=1,
        title="Hang timeout",
        description="Seconds without a step or a log line of any rank, after which the task fails and says where each "
        "rank stands. Empty: never.",
        json_schema_extra={"section": "Training"},
    )

    save_checkpoint_steps: int = Field(
        100,
        ge=1,
        title="Steps between checkpoints",
        description="The last step is always saved.",
        json_schema_extra={"section": "Checkpoints"},
    )
    keep_checkpoint_max: int = Field(3, ge=1, title="Checkpoints to keep", json_schema_extra={"section": "Checkpoints"})
    checkpoint_format: Literal["ckpt", "safetensors"] = Field(
        "ckpt", title="Slice format", json_schema_extra={"section": "Checkpoints"}
    )
    integrated_save: bool = Field(
        False,
        title="Integrated save",
        description="Every rank saves the whole model instead of its slices; merging then verifies and publishes it.",
        json_schema_extra={"section": "Checkpoints"},
    )
    strategy_save_file: str = Field(
        "src_strategy.ckpt",
        title="Strategy file",
        description="**save_file** of **strategy_ckpt_config**: the file's name in the run directory.",
        json_schema_extra={"section": "Checkpoints"},
    )
    strategy_load_file: str | None = Field(
        None,
        title="Strategy file to load",
        description="**load_file** of **strategy_ckpt_config**: operators are sharded as this file says.",
        json_schema_extra={"section": "Checkpoints"},
    )
    strategy_only_trainable_params: bool = Field(
        False,
        title="Strategy of trainable parameters only",
        description="**only_trainable_params** of **strategy_ckpt_config**. Set: the merged model holds "
        "the weights alone, without optimizer states.",
        json_schema_extra={"section": "Checkpoints"},
    )

    checkpoint_step: int | None = Field(
        None,
        ge=1,
        title="Step to merge",
        description="Empty: the newest complete shard set.",
        json_schema_extra={"section": "Merging"},
    )
    merged_format: Literal["ckpt", "safetensors"] = Field(
        "ckpt", title="Merged format", json_schema_extra={"section": "Merging"}
    )
    model_name: str = Field(
        "mnist-mlp",
        title="Model name",
        description="The folder of the model store that promotion adds a version to.",
        json_schema_extra={"section": "Promotion"},
    )

    @field_validator("mirrors", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("model_name", "strategy_save_file")
    @classmethod
    def _is_a_plain_name(cls, value: str) -> str:
        if not re.fullmatch(_NAME, value):
            raise ValueError("expected letters, digits, '.', '_' or '-', starting with a letter or digit, at most 64")
        return value

    @field_validator("mirrors")
    @classmethod
    def _are_web_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for mirror in value:
            if not re.fullmatch(r"https?://[^\s]+", mirror):
                raise ValueError(f"{mirror!r} is not an http or https address")
        return value

    @model_validator(mode="after")
    def _combinations(self) -> RunConfig:
        if self.data_source == "directory" and not self.data_directory:
            raise ValueError("data_source 'directory' needs data_directory")
        if self.data_source == "mnist" and not self.mirrors:
            raise ValueError("data_source 'mnist' needs at least one of mirrors")
        return self

    @classmethod
    def from_json(cls, document: str | bytes) -> RunConfig:
        """The configuration in a JSON object; `ConfigError` names each wrong parameter and what it should be."""
        try:
            return cls.model_validate(json.loads(document))
        except json.JSONDecodeError as error:
            raise ConfigError(f"the parameters are not JSON: {error}") from error
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error

    def to_json(self) -> str:
        """The document as it stands in `config.json`: every parameter, sorted, indented."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def form_schema() -> dict[str, dict[str, Any]]:
    """JSON schema by parameter, in the form's order: what an Airflow `Param` takes besides its default."""
    properties = RunConfig.model_json_schema()["properties"]
    return {name: _flattened(schema) for name, schema in properties.items()}


def _flattened(schema: dict[str, Any]) -> dict[str, Any]:
    """`anyOf [T, null]`, as pydantic writes an optional parameter, becomes `type: [T, null]`, as the form reads it."""
    flat = {key: value for key, value in schema.items() if key not in ("anyOf", "const")}
    for option in schema.get("anyOf", []):
        flat.update({key: value for key, value in option.items() if key != "type"})
    if "anyOf" in schema:
        flat["type"] = [option["type"] for option in schema["anyOf"]]
    if "const" in schema:
        flat["enum"] = [schema["const"]]
    return flat


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name}: unknown parameter; known are {', '.join(RunConfig.model_fields)}")
        else:
            found = f" (found {problem['input']!r})" if name else ""
            lines.append(f"{name}: {problem['msg']}{found}" if name else problem["msg"])
    return "bad parameters:\n  " + "\n  ".join(lines)
