"""Merge the run's slices in parts, on several workers: `shardline merge-parts`.

python -m tasks.merge_parts {plan,write,commit} [--run-directory DIR]
"""

from __future__ import annotations

import sys

from shardline.cli.parts_command import main

if __name__ == "__main__":
    sys.exit(main())
