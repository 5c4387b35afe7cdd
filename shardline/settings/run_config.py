"""The parameters of a run, checked together: one document, declared once.

`RunConfig` is the schema of the trigger form, of the JSON document that the DAG passes to its tasks, and of the run
directory's `config.json`. The parameters themselves stand in `shardline.settings.run_parameters`.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import field_validator, model_validator

from shardline.settings import presets
from shardline.settings.export_mapping import check_export_mapping
from shardline.settings.run_parameters import DEFAULT_MODEL, RunParameters
from shardline.settings.upload_address import check_upload_address

RESERVED_NAMES = frozenset(
    {
        "config.json",
        "dataset.json",
        "code.json",
        "start.json",
        "cards.json",
        "mlflow.json",
        "network.mindir",
        "run.json",
        "metrics.jsonl",
        "train.json",
        "reference_logits.npz",
        "promotion.json",
        "src_checkpoints",
        "log_output",
        "tensorboard",
        "merged",
        "resharded",
        "validation",
        "failures",
    }
)
"""What else lies in a run directory (`shardline.run.directory`): a strategy saved there would replace it."""


class RunConfig(RunParameters):
    """Everything that a user chooses for one run of the pipeline."""

    @property
    def ranks_per_stage(self) -> int:
        """How many ranks hold one pipeline stage, each its slices; all ranks where there is one stage."""
        return max(self.world_size // self.pipeline_stages, 1)

    @property
    def micro_batch_size(self) -> int:
        """The samples that the network computes at once: the whole batch where there is one stage."""
        return max(self.batch_size // (self.micro_batches or self.pipeline_stages), 1)

    @classmethod
    def empty_means(cls) -> dict[str, str]:
        """What a preset, or the network, makes of parameters that are not given."""
        words = {}
        for name in presets.preset_parameters():
            by_preset = presets.values_of(name, cls.model_fields[name].default)
            plain = by_preset.pop("none")
            words[name] = (
                f"{plain}; with the preset {', '.join(f'**{one}** {value}' for one, value in by_preset.items())}"
            )
        return words | {"model_name": f"for **mlp** {DEFAULT_MODEL}, else the network's name"}

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        """Parameters that are not given become the preset's."""
        preset = presets.PRESETS.get(str(given.get("preset"))) if isinstance(given, dict) else None
        if preset is None:
            return given
        return given | {name: value for name, value in preset.parameters.items() if given.get(name) is None}

    @model_validator(mode="before")
    @classmethod
    def _model_named_after_its_network(cls, given: Any) -> Any:
        """Versions of one model are of one network: where no name is given, the network's name is the model's."""
        network = str(given.get("network") or "mlp") if isinstance(given, dict) else "mlp"
        if network == "mlp" or given.get("model_name") is not None:
            return given
        return given | {"model_name": network.rpartition(":")[2].lstrip("_")}

    @field_validator("mirrors", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

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
        if self.data_source == "text" and not self.text_file:
            raise ValueError("data_source 'text' needs text_file")
        if self.data_source == "mnist" and not self.mirrors:
            raise ValueError("data_source 'mnist' needs at least one of mirrors")
        if self.integrated_save and self.remove_redundancy:
            raise ValueError(
                "integrated_save has every rank save the whole model: leave out remove_redundancy, or that"
            )
        return self

    @field_validator("strategy_save_file")
    @classmethod
    def _is_no_other_file_of_the_run(cls, value: str) -> str:
        if value in RESERVED_NAMES:
            raise ValueError("is what another file or folder of the run is called; choose another name")
        return value

    @model_validator(mode="after")
    def _upload(self) -> RunConfig:
        # Of the whole model, since a message about one parameter repeats its value, here perhaps a password.
        check_upload_address(self.upload_to)
        return self

    @model_validator(mode="after")
    def _export(self) -> RunConfig:
        check_export_mapping(self.hugging_face_export, self.network)
        return self

    @model_validator(mode="after")
    def _stages(self) -> RunConfig:
        stages, parts = self.pipeline_stages, self.micro_batches or self.pipeline_stages
        if stages == 1:
            if parts > 1:
                raise ValueError(
                    f"micro_batches {parts} is for several stages: raise pipeline_stages, or leave it empty"
                )
            return self
        if self.device_target == "CPU":
            raise ValueError(
                f"pipeline_stages {stages} is for device_target GPU or Ascend, where MindSpore's compiler parts the "
                "network; on the CPU expected 1: tensor_parallel and enable_parallel_optimizer spread a network there"
            )
        if self.world_size % stages:
            raise ValueError(
                f"expected world_size to be a multiple of pipeline_stages {stages}, found {self.world_size}"
            )
        if parts < stages:
            raise ValueError(f"expected micro_batches to be at least pipeline_stages {stages}, found {parts}")
        if self.batch_size % parts:
            raise ValueError(f"expected batch_size to be a multiple of micro_batches {parts}, found {self.batch_size}")
        for name in ("integrated_save", "strategy_load_file", "validate_every_steps"):
            if getattr(self, name):
                raise ValueError(f"{name} is for a network in one stage: leave it out, or set pipeline_stages to 1")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> RunConfig:
        starts = {
            "start_from": self.start_from != "scratch",
            "start_file": self.start_file is not None,
            "resume_from": self.resume_from is not None,
        }
        if sum(starts.values()) > 1:
            raise ValueError(f"{' and '.join(name for name in starts if starts[name])} say different starts; keep one")
        return self
