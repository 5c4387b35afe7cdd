"""Validate the merged model: the unsharded network on one device, the data that training held out.

    python -m tasks.launch tasks.validate [--run-directory DIR]

Leaves `validation/report.json`, `report.md`, `loss.png` and the metric's own pictures in the run directory, and fails
after that where the model is worse than asked or is not the model that the ranks trained. The launcher holds the run
directory meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tasks import atomic
from tasks.command_line import home_from, parser, run_directory_from
from tasks.command_line import main as run_command
from tasks.errors import ValidationError
from tasks.networks import train_spec
from tasks.run_directory import Home, RunDirectory
from tasks.validation.champion import HeldOut, judge_champion
from tasks.validation.merged import read_merged, verify
from tasks.validation.model import MergedNetwork
from tasks.validation.plots import LossByStep, plot_loss
from tasks.validation.report import LOSS_FILE, Report
from tasks.validation.sharded_logits import compare


def validate(run: RunDirectory, home: Home) -> dict[str, Any]:
    """Validate the run's merged model and return the result; `ValidationError` where it must not be promoted."""
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
    spec = train_spec(config)
    samples, labels = spec.dataset.load(run.dataset_file, "test")
    network = MergedNetwork(merged, spec.network, config)
    dataset_digest = run.dataset_digest()
    return Report(
        merged=merged,
        dataset_digest=dataset_digest,
        metric=spec.metric.name,
        scores=spec.metric.score(network.logits, samples, labels),
        sharded_logits=compare(run, merged, network.logits),
        higher_is_better=spec.metric.higher_is_better,
        champion=judge_champion(home, config, spec, HeldOut(samples, labels, dataset_digest)),
    )


def training_losses(run: RunDirectory) -> LossByStep:
    """The loss of every step that `metrics.jsonl` holds."""
    try:
        records = [json.loads(line) for line in run.read(run.metrics_file, "train").splitlines()]
        return [(int(record["step"]), float(record["loss"])) for record in records if "loss" in record]
    except (ValueError, TypeError, KeyError) as error:
        raise ValidationError(
            f"{run.metrics_file}: expected a JSON object on each line, found something else ({error!r}); clear train"
        ) from error


def main() -> int:
    """The rank's command line."""
    arguments = parser(__doc__ or "").parse_args()
    return run_command(lambda: validate(run_directory_from(arguments, os.environ), home_from(os.environ)))


if __name__ == "__main__":
    sys.exit(main())
