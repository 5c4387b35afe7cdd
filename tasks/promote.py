"""Make the run's validated model a version of the model store, and the current one.

python -m tasks.promote [--run-directory DIR]
"""

from __future__ import annotations

import os
import sys
from typing import Any

from shardline.run.command_line import run_task
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.store.promotion import promote
from shardline.store.signing_key import signing_key


def _promote(run: RunDirectory) -> dict[str, Any]:
    home = home_from(os.environ)
    return promote(run, home, signing_key(home, os.environ))


if __name__ == "__main__":
    sys.exit(run_task(__doc__ or "", _promote))
