"""Validate the merged model: the unsharded network on one device, the data that training held out.

    python -m tasks.launch tasks.validate [--run-directory DIR]

Leaves `validation/report.json`, `report.md`, `confusion_matrix.png` and `loss.png` in the run directory, and fails
after that where the model is worse than `min_accuracy` or is not the model that the ranks trained. The launcher holds
the run directory meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks import atomic
from tasks.command_line import main as run_command
from tasks.command_line import parser, run_directory_from
from tasks.datasets import digits
from tasks.errors import ValidationError
from tasks.run_directory import RunDirectory
from tasks.validation.merged import read_merged, verify
from tasks.validation.metrics import score
from tasks.validation.model import MergedNetwork
from tasks.validation.plots import LossByStep, plot_confusion_matrix, plot_loss
from tasks.validation.report import CONFUSION_MATRIX_FILE, LOSS_FILE, Report
from tasks.validation.sharded_logits import compare


def validate(run: RunDirectory) -> dict[str, Any]:
    """Validate the run's merged model and return the result; `ValidationError` where it must not be promoted."""
    run.report_file.unlink(missing_ok=True)
    report = examine(run)
    losses = training_losses(run)
    plot_confusion_matrix(report.scores.confusion_matrix, run.validation / CONFUSION_MATRIX_FILE)
    plot_loss(losses, report.scores.loss, run.validation / LOSS_FILE)
    atomic.write_text(run.validation / "report.md", report.to_markdown())
    atomic.write_text(run.report_file, report.to_json())
    print(report.to_markdown(), flush=True)
    if report.failures:
        raise ValidationError("; ".join(report.failures))
    return {
        "run_directory": str(run.path),
        "accuracy": report.scores.accuracy,
        "loss": report.scores.loss,
        "report": str(run.report_file),
        "merged_digest": report.merged.digest,
    }


def examine(run: RunDirectory) -> Report:
    """What the run's merged model computes, on the data that training held out and beside the ranks' own logits."""
    config = run.read_config()
    merged = read_merged(run)
    verify(merged)
    images, labels = digits.load(run.dataset_file, "test")
    network = MergedNetwork(merged, config)
    logits = network.logits(images)
    _check_finite(logits, run)
    return Report(
        merged=merged,
        dataset_digest=digits.read_description(run.dataset_file).digest,
        min_accuracy=config.min_accuracy,
        scores=score(logits, labels),
        sharded_logits=compare(run, merged, network.logits),
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


def _check_finite(logits: npt.NDArray[np.float32], run: RunDirectory) -> None:
    wrong = int((~np.isfinite(logits)).any(axis=1).sum())
    if wrong:
        raise ValidationError(
            f"expected finite logits, found NaN or infinity for {wrong} of {len(logits)} held-out images: training "
            f"diverged; see the losses in {run.metrics_file}, and lower the learning rate"
        )


def main() -> int:
    """The rank's command line."""
    arguments = parser(__doc__ or "").parse_args()
    return run_command(lambda: validate(run_directory_from(arguments, os.environ)))


if __name__ == "__main__":
    sys.exit(main())
