"""Validating the merged model of a described training: by its own proof always, and by the command of its description.

Leaves `validation/report.json` and `report.md` in the run directory, as the validation of our own trainings does, and
fails after that where the model is worse than asked.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.errors import ValidationError
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.merging.verify import compared_tensors, verify
from shardline.run.directory import Home, RunDirectory
from shardline.run.merged_model import MergedModel, read_merged
from shardline.settings.training_config import TrainingConfig
from shardline.store.model_store import current
from shardline.validation.champion import Champion
from shardline.validation.own_command import metrics_of

_DRAWN = frozenset({"passed", "failures", "metric", "higher_is_better", "champion", "merged", "tensors", "proved"})
"""What else a report holds: no metric may be called so."""


@dataclass(frozen=True)
class DescribedReport:
    """What was found of a merged model: how much of it is proved, and what the description's command says of it."""

    merged: MergedModel
    tensors: int
    proved: int
    metrics: dict[str, float]
    metric: str | None
    higher_is_better: bool
    champion: Champion | None = None
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """`report.json`; the metrics stand in it by their names."""
        document = {
            "passed": not self.failures,
            "failures": self.failures,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "champion": asdict(self.champion) if self.champion else None,
            "merged": asdict(self.merged) | {"file": self.merged.file.name},
            "tensors": self.tensors,
            "proved": self.proved,
            **self.metrics,
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """`report.md`, which the task's log shows as well."""
        step = "" if self.merged.step is None else f"step {self.merged.step}, "
        champion = self.champion
        lines = [
            f"# Validation {'failed' if self.failures else 'passed'}",
            "",
            *(f"- **{failure}**" for failure in self.failures),
            *(f"- {name}: {value:g}" for name, value in self.metrics.items()),
            *(
                []
                if self.metrics
                else ["- No command says how good the model is: it was read, and its digests compared"]
            ),
            *([f"- {self.metric} of the current version, {champion.version}: {champion.value:g}"] if champion else []),
            f"- Model: `{self.merged.file.name}`, {step}BLAKE3 `{self.merged.digest}`",
            f"- Tensors: {self.tensors}, of which {self.proved} were compared with their slices",
        ]
        return "\n".join(lines) + "\n"


def validate_described(run: RunDirectory, home: Home, config: TrainingConfig) -> dict[str, Any]:
    """Validate the run's merged model and return the result; `ValidationError` where it must not be promoted."""
    run.report_file.unlink(missing_ok=True)
    report = examine_described(run, home, config)
    atomic.make_directory(run.validation)
    atomic.write_text(run.validation / "report.md", report.to_markdown())
    atomic.write_text(run.report_file, report.to_json())
    print(report.to_markdown(), flush=True)
    if report.failures:
        raise ValidationError("; ".join(report.failures))
    known = {report.metric: report.metrics[report.metric]} if report.metric else {}
    return {
        "run_directory": str(run.path),
        **known,
        "report": str(run.report_file),
        "merged_digest": report.merged.digest,
    }


def examine_described(run: RunDirectory, home: Home, config: TrainingConfig) -> DescribedReport:
    """What the merged file is, tensor by tensor, and how good the description's command finds it."""
    merged = read_merged(run)
    record = verify(merged.file)
    names = {str(tensor["name"]) for tensor in record["tensors"]}
    _load_strictly(merged.file, names)
    asked = config.training.validation
    metrics = metrics_of(run, config, merged) if asked.command else {}
    return DescribedReport(
        merged=merged,
        tensors=len(names),
        proved=compared_tensors(record),
        metrics=metrics,
        metric=asked.chosen_metric,
        higher_is_better=asked.higher_is_better,
        champion=_champion(run, home, config),
        failures=[*_misnamed(metrics), *_worse_than_asked(config, metrics)],
    )


def _load_strictly(file: Path, names: set[str]) -> None:
    """Every tensor of the record is in the file, and nothing else; to MindSpore as well, where it is installed."""
    _compare(file, names, {header.name for header in index_checkpoint(file).schema.headers}, "Shardline")
    if importlib.util.find_spec("mindspore") is None:
        print("MindSpore is not installed here: the file was read by Shardline alone", file=sys.stderr)
        return
    import mindspore

    file_format = "safetensors" if file.suffix == ".safetensors" else "ckpt"
    try:
        loaded = mindspore.load_checkpoint(str(file), format=file_format)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValidationError(f"{file}: MindSpore cannot load the merged model: {error}") from error
    _compare(file, names, set(loaded), "MindSpore")


def _compare(file: Path, expected: set[str], found: set[str], whose: str) -> None:
    if missing := sorted(expected - found):
        raise ValidationError(f"{file}: {whose} finds no {missing[0]} in it, which was merged into it; clear merge")
    if more := sorted(found - expected):
        raise ValidationError(f"{file}: {whose} finds {more[0]} in it, which was never merged into it; clear merge")


def _misnamed(metrics: dict[str, float]) -> list[str]:
    return [
        f"the metric {name} has the name of something else in a report; rename it" for name in metrics.keys() & _DRAWN
    ]


def _worse_than_asked(config: TrainingConfig, metrics: dict[str, float]) -> list[str]:
    """What stands against promotion, a sentence each."""
    asked = config.training.validation
    failures = []
    for name in dict.fromkeys((*asked.minimum, *asked.maximum, *([asked.metric] if asked.metric else []))):
        least, most, value = asked.minimum.get(name), asked.maximum.get(name), metrics.get(name)
        if value is None:
            failures.append(f"expected the metric {name}, found {', '.join(sorted(metrics)) or 'none'}")
        elif least is not None and value < least:
            failures.append(f"expected {name} to be at least {least:g}, found {value:g}")
        elif most is not None and value > most:
            failures.append(f"expected {name} to be at most {most:g}, found {value:g}")
    return failures


def _champion(run: RunDirectory, home: Home, config: TrainingConfig) -> Champion | None:
    """The current version, judged by the same command on the same data, where `champion_margin` asks for that."""
    champion = current(home, config.model_name) if config.champion_margin is not None else None
    metric = config.training.validation.chosen_metric
    if champion is None or metric is None:
        return None
    model = MergedModel(champion.model_file, champion.digest, champion.step)
    value = metrics_of(run, config, model).get(metric)
    if value is None:
        raise ValidationError(f"the command prints no {metric} of version {champion.version}, the current one")
    return Champion(champion.version, champion.digest, value)
