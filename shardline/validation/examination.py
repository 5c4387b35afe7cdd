"""Validating the merged model: the unsharded network on one device, the data that training held out.

Leaves `validation/report.json`, `report.md`, `loss.png` and the metric's own pictures in the run directory, and fails
after that where the model is worse than asked or is not the model that the ranks trained.
"""

from __future__ import annotations

import json
from typing import Any

from shardline.base import atomic
from shardline.base.errors import ValidationError
from shardline.networks.train_spec import Network
from shardline.recipes.lookup import train_spec
from shardline.run.directory import Home, RunDirectory
from shardline.run.merged_model import read_merged, verify
from shardline.scoring.plots import LossByStep, plot_loss
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import TrainingConfig
from shardline.validation.champion import HeldOut, judge_champion
from shardline.validation.described import validate_described
from shardline.validation.merged_network import MergedNetwork
from shardline.validation.report import LOSS_FILE, Report
from shardline.validation.sharded_logits import compare
from shardline.validation.tolerance import tolerance_of


def validate(run: RunDirectory, home: Home) -> dict[str, Any]:
    """Validate the run's merged model and return the result; `ValidationError` where it must not be promoted."""
    config = run.read_any_config()
    if isinstance(config, TrainingConfig):
        return validate_described(run, home, config)
    run.report_file.unlink(missing_ok=True)
    report = examine(run, home)
    losses = training_losses(run)
    report.scores.plot(run.validation)
    plot_loss(losses, report.scores.loss, run.validation / LOSS_FILE)
    atomic.write_text(run.validation / "report.md", report.to_markdown())
    atomic.write_text(run.report_file, report.to_json())
    print(report.to_markdown(), flush=True)
    if report.failures:
        raise ValidationError("; ".join(report.failures))
    return {
        "run_directory": str(run.path),
        report.metric: report.scores.value,
        "loss": report.scores.loss,
        "report": str(run.report_file),
        "merged_digest": report.merged.digest,
    }


def examine(run: RunDirectory, home: Home) -> Report:
    """What the run's merged model computes, on the data that training held out and beside the ranks' own logits.

    Beside the current model of `home`, too, where the parameters ask for that.
    """
    config = run.read_config()
    merged = read_merged(run)
    verify(merged)
    spec = train_spec(config, run.network_file)
    samples, labels = spec.dataset.load(run.dataset_file, "test")
    network = MergedNetwork(merged, spec.network, config)
    dataset_digest = run.dataset_digest()
    return Report(
        merged=merged,
        dataset_digest=dataset_digest,
        metric=spec.metric.name,
        scores=spec.metric.score(network.logits, samples, labels),
        sharded_logits=compare(run, merged, network.logits, _tolerance(config, spec.network)),
        higher_is_better=spec.metric.higher_is_better,
        champion=judge_champion(home, config, spec, HeldOut(samples, labels, dataset_digest)),
    )


def _tolerance(config: RunConfig, network: Network) -> float:
    """The one that the parameters give, or that of rounding."""
    if config.logits_tolerance is not None:
        return config.logits_tolerance
    return tolerance_of(network.operators(config.batch_size), config.precision, config.device_target)


def training_losses(run: RunDirectory) -> LossByStep:
    """The loss of every step that `metrics.jsonl` holds."""
    try:
        records = [json.loads(line) for line in run.read(run.metrics_file, "train").splitlines()]
        return [(int(record["step"]), float(record["loss"])) for record in records if "loss" in record]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValidationError(
            f"{run.metrics_file}: expected a JSON object on each line, found something else ({error!r}); clear train"
        ) from error
