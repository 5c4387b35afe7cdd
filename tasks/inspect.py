"""`python -m tasks.inspect`: the command `shardline inspect`, from the checkout."""

from __future__ import annotations

import sys

from shardline.cli.inspect_command import main

if __name__ == "__main__":
    sys.exit(main())
