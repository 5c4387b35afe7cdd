"""`python -m tasks.model_store`: the command `shardline models`, from the checkout."""

from __future__ import annotations

import sys

from shardline.cli.models_command import main

if __name__ == "__main__":
    sys.exit(main())
