"""`shardline COMMAND`: everything that can be done by hand, without Airflow.

Only `merge` of a run, `models`, `export`, `track` and `cards` need more than NumPy and BLAKE3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from shardline.base.exit_codes import BAD_PARAMETERS

COMMANDS = {
    "merge": ("merge_command", "slices become one integrated checkpoint, proved"),
    "merge-parts": ("parts_command", "the same by several processes or machines: plan, write, commit"),
    "verify": ("verify_command", "compare a merged checkpoint with its record"),
    "reshard": ("reshard_command", "slices for another strategy or number of cards"),
    "adopt": ("adopt_command", "a manifest for slices that any program saved: from then on they are complete"),
    "inspect": ("inspect_command", "what a checkpoint, strategy, manifest or record holds"),
    "models": ("models_command", "versions of a model; which one is current"),
    "export": ("export_command", "a version as a folder that Hugging Face's transformers loads"),
    "track": ("track_command", "tell MLflow what it has not been told of any run"),
    "cards": ("cards_command", "which run holds which cards of this host"),
}
"""Command → its module in `shardline.cli`, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 2 where there is none of that name, or a package is missing that it needs."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    if not given or given[0] not in COMMANDS:
        found = f"no command {given[0]!r}" if given else "which command?"
        print(f"shardline: {found}\n\n{_usage()}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[given[0]]
    sys.argv[0] = f"shardline {given[0]}"  # what argparse calls the program
    try:
        code: int = import_module(f"shardline.cli.{module}").main(given[1:])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__package__.partition(".")[0]):
            raise
        print(
            f"ConfigError: {sys.argv[0]} needs the package {error.name}, which is not installed; install it, or all "
            "that trainings need: pip install 'shardline[train]'",
            file=sys.stderr,
        )
        return BAD_PARAMETERS
    return code


def _usage() -> str:
    rows = (f"  {name:<12} {purpose}" for name, (_, purpose) in COMMANDS.items())
    return "\n".join(["usage: shardline COMMAND [-h] …", "", *rows])


if __name__ == "__main__":
    sys.exit(main())
