"""Cells exported one after another, in one process.

    python -m tests.exported_cells RUNS.json

RUNS is a list: `graph`, the file to write, and `parameters`, those of a `RunConfig`.
"""

import json
import sys
from pathlib import Path

from shardline.recipes.exporting import write
from shardline.settings.run_config import RunConfig


def main():
    for run in json.loads(Path(sys.argv[1]).read_text()):
        write(RunConfig(**run["parameters"]), Path(run["graph"]))


if __name__ == "__main__":
    main()
