"""The table and the plot of the README, from results.json: `python -m benchmarks.merge.report`."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.merge.contenders import CONTENDERS

HERE = Path(__file__).parent
ORDER = list(CONTENDERS)
BEGIN, END = "<!-- table -->", "<!-- /table -->"


def table(document: dict) -> str:
    """One row for each contender and size, with its wall time as a multiple of `cp` + fsync at that size."""
    copies = {row["size"]: row["wall"] for row in document["rows"] if row["contender"] == "cp + fsync"}
    lines = [
        f"{document['machine']}; load average {document['load_average_at_the_end']:.1f}.",
        "",
        "| size | contender | wall (s) | × cp + fsync | without imports (s) | processor (s) | peak memory (MB) |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(document["rows"], key=lambda row: (row["size"], ORDER.index(row["contender"]))):
        ratio = row["wall"] / copies[row["size"]]
        lines.append(
            f"| {row['size'] / 1e9:g} GB | {row['contender']} | {row['wall']:.2f} | {ratio:.2f} | {row['work']:.2f} "
            f"| {row['processor']:.2f} | {row['memory']:.0f} |"
        )
    return "\n".join(lines)


def plot(document: dict, path: Path) -> None:
    """Wall time and peak memory against size, for every contender."""
    mpl.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for name in dict.fromkeys(row["contender"] for row in document["rows"]):
        rows = sorted((row for row in document["rows"] if row["contender"] == name), key=lambda row: row["size"])
        sizes = [row["size"] / 1e9 for row in rows]
        style = "-o" if name.startswith(("shardline", "cp")) else "--s"
        left.plot(sizes, [row["wall"] for row in rows], style, label=name, markersize=4)
        right.plot(sizes, [row["memory"] for row in rows], style, label=name, markersize=4)
    for axes, title in ((left, "wall time, whole process (s)"), (right, "peak memory (MB)")):
        axes.set(xscale="log", yscale="log", xlabel="merged checkpoint (GB)", title=title)
        axes.grid(visible=True, which="both", alpha=0.25)
    right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    document = json.loads((HERE / "results.json").read_text())
    readme = (HERE / "README.md").read_text()
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    (HERE / "README.md").write_text(f"{before}{BEGIN}\n{table(document)}\n{END}{after}")
    plot(document, HERE / "merge.png")


if __name__ == "__main__":
    main()
