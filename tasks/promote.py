"""Make the run's validated model a version of the model store, and the current one.

    python -m tasks.promote [--run-directory DIR]

Done again for the same run and the same model, it returns the version that it made before.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tasks import atomic
from tasks.command_line import home_from, run_task
from tasks.errors import PromotionError
from tasks.model_store import ModelStore
from tasks.run_directory import Home, RunDirectory
from tasks.validation.merged import MergedModel, read_merged
from tasks.version_folder import Candidate


def promote(run: RunDirectory, home: Home) -> dict[str, Any]:
    """The version that the run's merged model is from now on; `PromotionError` unless it was validated and passed."""
    config = run.read_config()
    merged = read_merged(run)
    metric, value = _validated(run, merged)
    candidate = Candidate(
        run=_name(run, home),
        model=merged.file,
        digest=merged.digest,
        metric=metric,
        value=value,
        step=merged.step,
        documents={file.name: file.read_bytes() for file in (run.report_file, run.merge_file, run.config_file)},
    )
    version = ModelStore(home, config.model_name).add(candidate)
    result = {
        "version": version.version,
        "digest": version.digest,
        "metric": version.metric,
        version.metric: version.value,
        "path": str(version.path),
    }
    atomic.write_text(run.promotion_file, json.dumps(result, indent=2) + "\n")
    print(f"{version.path}: version {version.version} of {config.model_name}", flush=True)
    return result


def _validated(run: RunDirectory, merged: MergedModel) -> tuple[str, float]:
    """The metric and its value that validation found; `PromotionError` unless it was of this model, and enough."""
    file = run.report_file
    try:
        report: dict[str, Any] = json.loads(run.read(file, "validate"))
        passed, failures, validated = report["passed"], report["failures"], report["merged"]["digest"]
        metric = str(report["metric"])
        value = float(report[metric])
    except (ValueError, TypeError, KeyError) as error:
        raise PromotionError(f"{file}: expected the report of a validation ({error!r}); clear validate") from error
    if validated != merged.digest:
        raise PromotionError(
            f"{file}: expected the report on the merged file of digest {merged.digest}, found that on {validated}: "
            "merge ran again since; clear validate"
        )
    if passed is not True:
        raise PromotionError(f"{file}: validation failed: {'; '.join(map(str, failures))}")
    return metric, value


def _name(run: RunDirectory, home: Home) -> str:
    """The run as versions name it: its folder below `home`, which may be mounted elsewhere tomorrow."""
    return str(run.path.relative_to(home.path) if run.path.is_relative_to(home.path) else run.path)


if __name__ == "__main__":
    sys.exit(run_task(__doc__ or "", lambda run: promote(run, home_from(os.environ))))
