"""What a run left behind, short enough for a terminal: `python -m scripts.summary RUN_DIRECTORY`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.run.directory import RunDirectory

BLOCKS = " ▁▂▃▄▅▆▇█"


def summary(directory: RunDirectory) -> str:
    """The metric, loss curve, merged file and its proof, promoted version of the finished run in `directory`."""
    report = _json(directory.validation / "report.json", "validate")
    proof = _json(directory.merge_file, "merge")
    promotion = _json(directory.promotion_file, "promote")
    output = proof["output"][0]
    merged = directory.merged / output["name"]
    lines = [
        quality(report),
        f"Merged     {merged}",
        f"           {output['size'] / 1e6:.1f} MB, BLAKE3 {output['digest']}",
        f"Proof      {_proof(proof)}: {directory.merge_file.relative_to(directory.path)}",
        f"           its logits and the sharded ranks' differ by "
        f"{report['sharded_logits']['relative_difference']:.1e} of the greatest",
        f"Version    {promotion['version']}: {promotion['path']}",
        f"Plots      {directory.validation / 'loss.png'}",
        "",
        *curve(losses(directory)),
    ]
    return "\n".join(lines)


def _json(file: Path, task: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(RunDirectory(file.parent).read(file, task))
    return document


def quality(report: dict[str, Any]) -> str:
    """How good the model is, by whatever metric it was validated."""
    metric = report["metric"]
    asked = {
        "accuracy": " on {samples} held-out images (at least {min_accuracy} was asked)",
        "perplexity": " on {tokens} held-out tokens (at most {max_perplexity:g} was asked; without context, "
        "{unigram_perplexity:.1f} is the best)",
    }
    return f"{metric.capitalize():10} {report[metric]:.3f}" + asked.get(metric, "").format(**report)


def _proof(proof: dict[str, Any]) -> str:
    tensors, slices = len(proof["tensors"]), sum(tensor["slices_compared"] for tensor in proof["tensors"])
    files = len(proof["inputs"]["files"])
    sources = f"{counted(slices, 'slice')} from {counted(files, 'file')}"
    return f"{counted(tensors, 'tensor')} read again and compared with {sources}"


def losses(directory: RunDirectory) -> list[float]:
    """The loss of every step, in the order in which the steps were taken."""
    records = [json.loads(line) for line in directory.read(directory.metrics_file, "train").splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def curve(values: Sequence[float], width: int = 64, height: int = 6) -> list[str]:
    """`values` as a bar chart of `height` lines: each column the mean of its share of them, zero at the bottom."""
    if not values:
        return []
    columns = min(width, len(values))
    means = [_mean(values[i * len(values) // columns : (i + 1) * len(values) // columns]) for i in range(columns)]
    top = max(means) or 1.0
    eighths = [round(mean / top * height * 8) for mean in means]
    rows = ["".join(BLOCKS[max(0, min(8, bar - 8 * row))] for bar in eighths) for row in reversed(range(height))]
    labels = [f"Loss {top:5.2f}", *[""] * (height - 2), f"{0:.2f}"]
    foot = f"{'':10} step 1" + f"step {len(values)}, loss {values[-1]:.3f}".rjust(max(columns - 6, 28))
    return [*(f"{label:>10} {row}" for label, row in zip(labels, rows, strict=True)), foot]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run_directory", type=Path)
    print(summary(RunDirectory(arguments.parse_args().run_directory)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
