"""`python -m tasks.cards`: the command `shardline cards`, from the checkout."""

from __future__ import annotations

import sys

from shardline.cli.cards_command import main

if __name__ == "__main__":
    sys.exit(main())
