"""What a run of a described training was given: the description as it was, and the parameters that somebody chose."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo
from typing_extensions import Self

from shardline.base.errors import ConfigError
from shardline.settings.declared_parameter import Value, spelt
from shardline.settings.export_mapping import check_export_mapping
from shardline.settings.parameters import Parameters
from shardline.settings.run_parameters import RunParameters
from shardline.settings.training import OF_THE_PIPELINE, Pipeline, Training
from shardline.settings.upload_address import check_upload_address


class TrainingConfig(Parameters):
    """The `config.json` of such a run. Where `RunConfig` has a parameter of the same name, it means the same."""

    training: Training
    training_file: str
    values: dict[str, Value]
    world_size: int = Field(ge=1, le=4096)
    device_target: Literal["CPU", "GPU", "Ascend"]
    model_name: str
    termination_grace: int
    checkpoint_step: int | None = None
    merged_format: Literal["ckpt", "safetensors"] = "ckpt"
    weights_only: bool = False
    champion_margin: float | None = None
    approval: bool = False
    upload_to: str | None = None
    hugging_face_export: str | None = None
    hostfile: str | None = None
    hang_timeout: int | None = None

    @classmethod
    def from_json(cls, document: str | bytes) -> Self:
        """The parameters in a run's `config.json`; `ConfigError` where it is damaged."""
        try:
            return cls.model_validate_json(document)
        except ValidationError as error:
            raise ConfigError(cls._explain([], error.errors())) from None

    def to_json(self) -> str:
        """The document as it stands in a run directory."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True) + "\n"

    def texts(self, run: Path) -> dict[str, str]:
        """What takes the place of the placeholders that every command has."""
        return {name: spelt(value) for name, value in self.values.items()} | {
            "run_directory": str(run),
            "training_folder": str(Path(self.training_file).parent),
            "ranks": str(self.world_size),
            "python": sys.executable,
        }


def form_of(training: Training) -> type[Parameters]:
    """The parameters that may be chosen for a run: those that the description declares, and the pipeline's."""
    fields: dict[str, Any] = {name: declared.form_field() for name, declared in training.parameters.items()}
    for name, field in _of_the_pipeline().items():
        fields[name] = (field.annotation, field)
    fields["hang_timeout"][1].default = training.stop.hang_timeout
    for name in Pipeline.model_fields:
        fields[name][1].default = getattr(training.pipeline, name)
    if training.launcher != "mpirun":
        del fields["hostfile"]
    form: type[Parameters] = create_model("Form", __base__=_Form, **fields)
    return form


class _Form(Parameters):
    @model_validator(mode="after")
    def _upload(self) -> Self:
        # Of the whole form, since a message about one parameter repeats its value, here perhaps a password.
        check_upload_address(getattr(self, "upload_to", None))
        return self

    @model_validator(mode="after")
    def _export(self) -> Self:
        check_export_mapping(getattr(self, "hugging_face_export", None), None)
        return self


def _of_the_pipeline() -> Mapping[str, FieldInfo]:
    fields = {name: copy.copy(RunParameters.model_fields[name]) for name in OF_THE_PIPELINE if name != "weights_only"}
    weights_only: Any = Field(
        default=False,
        title="Weights only",
        description="The merged model holds the weights alone, without optimizer states.",
        json_schema_extra={"section": "Merging"},
    )
    weights_only.annotation = bool
    return fields | {"weights_only": weights_only}


def config_of(training: Training, file: Path, document: str) -> TrainingConfig:
    """What a run is given where `document` has the parameters that somebody chose; `ConfigError` names a wrong one."""
    chosen = form_of(training).from_json(document).model_dump()
    values = {name: chosen.pop(name) for name in training.parameters}
    return TrainingConfig(
        training=training,
        training_file=str(file),
        values=values,
        world_size=training.world_size(values),
        device_target=training.device,
        model_name=training.model,
        termination_grace=training.stop.grace,
        **chosen,
    )
