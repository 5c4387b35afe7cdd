"""Cells of `tests.refused_cells` exported one after another, in one process: what each is refused with.

    python -m tests.refused_exports OUTPUT.json NAME...

MindSpore writes what it compiles as text to the folder of OUTPUT, if its environment says so.
"""

import json
import sys
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.recipes.exporting import write
from shardline.settings.run_config import RunConfig


def refusal(name, output):
    try:
        write(RunConfig(network=f"tests.refused_cells:{name}", batch_size=4), output)
    except ConfigError as error:
        return str(error)
    return "exported"


def main():
    output, *names = sys.argv[1:]
    file = Path(output).absolute()
    found = {name: refusal(name, file.with_name(f"{name}.mindir")) for name in names}
    file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
