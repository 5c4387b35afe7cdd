"""Compare a merged checkpoint with the record beside it, from its digests alone.

shardline verify FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shardline.base.termination import clean_up_when_terminated
from shardline.cli.merge_command import verified
from shardline.cli.options import positive
from shardline.run import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="a merged file, or the index of several")
    parser.add_argument("--workers", type=positive, help="threads")
    parser.add_argument("--json", action="store_true", help="print the result alone")
    with clean_up_when_terminated():
        parsed = parser.parse_args(arguments)
        return command_line.main(lambda: verified(parsed.file, parsed.workers, parsed.json))
