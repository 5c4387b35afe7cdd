"""`python -m tasks.reshard`: the command `shardline reshard`, from the checkout."""

from __future__ import annotations

import sys

from shardline.cli.reshard_command import main

if __name__ == "__main__":
    sys.exit(main())
