"""Make the run's validated model a version of the model store, and the current one.

python -m tasks.promote [--run-directory DIR]
"""

from __future__ import annotations

import os
import sys

from shardline.run.command_line import run_task
from shardline.run.environment import home_from
from shardline.store.promotion import promote

if __name__ == "__main__":
    sys.exit(run_task(__doc__ or "", lambda run: promote(run, home_from(os.environ))))
