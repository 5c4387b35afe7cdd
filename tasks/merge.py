"""Merge the run's slices into one integrated checkpoint: `shardline merge`.

python -m tasks.merge [--run-directory DIR]
"""

from __future__ import annotations

import sys

from shardline.cli.merge_command import main

if __name__ == "__main__":
    sys.exit(main())
