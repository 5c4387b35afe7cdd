"""The tables of the README, from results.json: `python -m benchmarks.scaling.report`.

What a merge moves follows from the plan; how long that takes is extrapolated from the rate of `benchmarks.merge`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.merge.report import BEGIN, END

HERE = Path(__file__).parent
MERGES = HERE.parent / "merge" / "results.json"
_READ_OVER_MERGED = 1.2
"""Of the slices of `benchmarks.merge`: 2 × 2 + 8 bytes a parameter are 10 merged."""


def rate() -> float:
    """Bytes that a proved merge handles in a second: slices read twice, the output written once and read once."""
    rows = json.loads(MERGES.read_text())["rows"]
    row = max((row for row in rows if row["contender"] == "shardline, safetensors"), key=lambda row: row["size"])
    return float(2 * (_READ_OVER_MERGED + 1) * row["size"] / row["work"])


def plans(points: list[dict[str, Any]]) -> list[str]:
    """What understanding the inputs takes: measured."""
    lines = [
        "| cards | data × tensor × stages | parameters | replicas | tensors | slices | manifest (kB) "
        "| strategies, manifest and headers (s) | plan (s) | peak (MB) | digest of the plan (s) | peak (MB) |",
        "|" + "---:|" * 12,
    ]
    for point in points:
        steps = point["steps"]
        read = sum(steps[name]["seconds"] for name in ("strategies", "slices"))
        decided = sum(steps[name]["seconds"] for name in ("plan", "output", "geometry"))
        digest = steps.get("digest of the plan")
        shown = f"{digest['seconds']:.1f} | {digest['peak_memory_mb']:,}" if digest else "not run | "
        lines.append(
            f"{_which(point)} | {point['tensors']:,} | {point['slices']:,} | {point['manifest_bytes'] / 1e3:,.0f} "
            f"| {read:.2f} | {decided:.2f} | {steps['geometry']['peak_memory_mb']:.0f} | {shown} |"
        )
    return lines


def bytes_moved(points: list[dict[str, Any]]) -> list[str]:
    """What a proved merge reads and writes, from the plans, and how long one host takes: extrapolated."""
    lines = [
        "| cards | data × tensor × stages | parameters | replicas | merged (TB) | slices (TB) | read for a merged byte "
        "| open files | one host of 2 cores (h) |",
        "|" + "---:|" * 9,
    ]
    for point in points:
        read = 2 * point["bytes_in"] + point["bytes_out"]
        hours = (read + point["bytes_out"]) / rate() / 3600
        lines.append(
            f"{_which(point)} | {point['bytes_out'] / 1e12:.2f} | {point['bytes_in'] / 1e12:.2f} "
            f"| {read / point['bytes_out']:.1f} | {point['descriptors']:,} | {hours:.1f} |"
        )
    return lines


def parts(rows: list[dict[str, Any]]) -> list[str]:
    """`tasks.merge_parts` on real files: measured."""
    lines = ["| format | ranks | parameters | step | wall (s) | peak memory (MB) |", "|---|---:|---:|---|---:|---:|"]
    lines += [
        f"| {row['format']} | {row['ranks']:,} | {row['parameters']:,} | {row['step']} | {row['wall']:.1f} "
        f"| {row['peak_memory_mb']:,} |"
        for row in rows
    ]
    return lines


def ranks(rows: list[dict[str, Any]]) -> list[str]:
    """What one process of a training does for every rank: measured."""
    lines = [
        "| ranks | tensors | look of the supervisor (s) | one rank's exchange (s) | one rank's choice of slices (s) |",
        "|" + "---:|" * 5,
    ]
    lines += [
        f"| {row['ranks']:,} | {row['tensors']:,} | {row['supervisor_look']:.4f} | {row['exchange']:.3f} "
        f"| {row['choice']:.2f} |"
        for row in rows
    ]
    return lines


def _which(point: dict[str, Any]) -> str:
    replicas = "kept" if point["keeps_replicas"] else "removed"
    mesh = f"{point['data']} × {point['tensor']} × {point['pipeline']}"
    return f"| {point['cards']:,} | {mesh} | {point['parameters'] / 1e9:,.1f} × 10⁹ | {replicas}"


def main() -> None:
    document = json.loads((HERE / "results.json").read_text())
    points = document["points"]
    tables = [plans(points), bytes_moved(points), parts(document["parts"]), ranks(document["ranks"])]
    text = "\n\n".join("\n".join(lines) for lines in tables)
    readme = (HERE / "README.md").read_text()
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    head = f"{document['machine']}; a merge handles {rate() / 1e9:.1f} GB a second."
    (HERE / "README.md").write_text(f"{before}{BEGIN}\n{head}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
