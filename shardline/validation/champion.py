"""The model that is current, judged on the data on which its challenger is: promotion compares the two.

What the champion's own report says is taken where it was made on the same data, by the same metric; otherwise the
champion computes the challenger's held-out samples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from shardline.base.errors import PromotionError, ValidationError
from shardline.networks.train_spec import TrainSpec
from shardline.recipes.lookup import network_of
from shardline.run.directory import Home
from shardline.run.merged_model import MergedModel
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import current
from shardline.store.version import Version
from shardline.validation.merged_network import MergedNetwork


@dataclass(frozen=True)
class Champion:
    """The current version, and how good it is on the challenger's data."""

    version: int
    digest: str
    value: float


@dataclass(frozen=True)
class HeldOut:
    """The data that a challenger is judged on: samples [N, ...], labels [N, ...], the digest of the whole data set."""

    samples: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    dataset_digest: str


def judge_champion(home: Home, config: RunConfig, spec: TrainSpec, held_out: HeldOut) -> Champion | None:
    """The current version of the run's model; None where there is none, or `champion_margin` asks for no comparison."""
    champion = current(home, config.model_name) if config.champion_margin is not None else None
    if champion is None:
        return None
    value = _recorded(champion, spec.metric.name, held_out.dataset_digest)
    if value is None:
        value = _computed(champion, config, spec, held_out)
    return Champion(champion.version, champion.digest, value)


def _recorded(champion: Version, metric: str, dataset_digest: str) -> float | None:
    """What the champion's report says, if it was made by this metric on this data."""
    file = champion.path / "report.json"
    try:
        report = json.loads(file.read_bytes())
        same = (report["metric"], report["dataset_digest"]) == (metric, dataset_digest)
        return float(report[metric]) if same else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise PromotionError(f"{file}: expected the report of a promoted version ({error!r}); restore it") from error


def _computed(champion: Version, config: RunConfig, spec: TrainSpec, held_out: HeldOut) -> float:
    """The metric of the champion on the challenger's held-out samples, on the challenger's device."""
    file = champion.path / "config.json"
    try:
        its_config = RunConfig.from_json(file.read_bytes())
    except OSError as error:
        message = f"{file}: expected the parameters of a promoted version ({error!r}); restore it"
        raise PromotionError(message) from error
    network = network_of(its_config)
    if network.sample_shape != spec.network.sample_shape:
        raise ValidationError(
            f"champion_margin: version {champion.version}, the current one, takes samples of shape "
            f"{network.sample_shape}, this run's model {spec.network.sample_shape}: they cannot be compared; choose "
            "another model_name, or leave champion_margin empty"
        )
    model = MergedModel(champion.model_file, champion.digest, champion.step)
    cells = MergedNetwork(model, network, its_config.model_copy(update={"device_target": config.device_target}))
    return spec.metric.score(cells.logits, held_out.samples, held_out.labels).value
