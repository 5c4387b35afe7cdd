"""Which run holds which cards of this host.

shardline cards
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from shardline.run import command_line
from shardline.run.environment import home_from
from shardline.run.held_cards import held_cards


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a JSON object of kinds, runs and card numbers."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    return command_line.main(_held)


def _held() -> Mapping[str, Any]:
    return held_cards(home_from(os.environ))
