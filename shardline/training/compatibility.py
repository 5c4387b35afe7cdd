"""What a run must have in common with the shard set that it goes on from, and what may differ.

Every parameter of a run is in one of the two lists (a test sees to that). `DECIDES_THE_WEIGHTS` is recorded with each
shard set, together with the network's shapes and the data set's digest; what differs there is refused by name. With
all else equal, training ends with the same weights: to the bit on the same ranks and strategies, to float accuracy on
others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from shardline.base.errors import ConfigError, CorruptShard
from shardline.settings.run_config import RunConfig

DECIDES_THE_WEIGHTS = frozenset(
    {
        "network",
        "layers",
        "hidden_size",
        "heads",
        "sequence_length",
        "precision",
        "batch_size",
        "optimizer",
        "learning_rate",
        "momentum",
        "weight_decay",
        "warmup_steps",
        "schedule",
        "clip_norm",
        "seed",
    }
)
MAY_CHANGE = {
    "how the work is spread": {
        "device_target",
        "world_size",
        "tensor_parallel",
        "pipeline_stages",
        "micro_batches",
        "enable_parallel_optimizer",
        "strategy_load_file",
    },
    "how ranks are started and ended": {"hostfile", "hang_timeout", "termination_grace"},
    "how long it trains, unless the schedule is a cosine, which ends with it": {"epochs"},
    "where step 0 starts": {"start_from", "start_file", "resume_from"},
    "what is saved": {
        "save_checkpoint_steps",
        "keep_checkpoint_max",
        "checkpoint_format",
        "integrated_save",
        "remove_redundancy",
        "save_behind",
        "strategy_save_file",
        "strategy_only_trainable_params",
    },
    "what is watched": {"loss_spike_factor", "validate_every_steps"},
    "where the data comes from, whose digest is compared": {
        "data_source",
        "data_directory",
        "text_file",
        "corpus_size",
        "mirrors",
    },
    "what comes after training": {
        "checkpoint_step",
        "merged_format",
        "min_accuracy",
        "max_perplexity",
        "sample_prompt",
        "sample_length",
        "sample_temperature",
        "model_name",
        "logits_tolerance",
        "champion_margin",
        "approval",
        "upload_to",
        "hugging_face_export",
    },
    "a name for a choice of all these": {"preset"},
}


def decisive(config: RunConfig, shapes: Mapping[str, tuple[int, ...]], dataset_digest: str) -> dict[str, Any]:
    """Whatever decides the weights of a step: of the parameters, of the network's whole `shapes`, and of the data."""
    names = {*DECIDES_THE_WEIGHTS, *(["epochs"] if config.schedule == "cosine" else [])}
    return {
        "parameters": config.model_dump(mode="json", include=names),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "dataset": dataset_digest,
    }


def digest_of(configuration: Mapping[str, Any]) -> str:
    """The digest that shard sets carry of what `decisive` gave."""
    return str(blake3(json.dumps(configuration, sort_keys=True).encode()).hexdigest())


def check_compatible(ours: Mapping[str, Any], file: Path, where: str, remedy: str) -> None:
    """Compare `ours` with what `file` recorded of the shard set `where`; `ConfigError` says what differs."""
    try:
        theirs = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptShard(f"{file}: it should say what {where} was trained with: {error}; {remedy}") from error
    if differences := _differences(ours, theirs):
        raise ConfigError(f"{where} was saved by another training:\n  " + "\n  ".join(differences) + f"\n{remedy}")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    lines = []
    for kind in ("parameters", "shapes"):
        found, expected = ours[kind], theirs.get(kind, {})
        lines += [
            f"{name}: expected {_shown(expected.get(name))}, found {_shown(found.get(name))}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
    found, expected = ours["dataset"], theirs.get("dataset")
    return lines if found == expected else [*lines, f"data set: expected the digest {expected}, found {found}"]


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
