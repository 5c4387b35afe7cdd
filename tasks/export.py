"""Export the version that promote made as a folder that Hugging Face's transformers loads.

python -m tasks.export [--run-directory DIR]
"""

from __future__ import annotations

import os
import sys

from shardline.base.termination import clean_up_when_terminated
from shardline.export.promoted import export_promoted
from shardline.run.command_line import run_task
from shardline.run.environment import home_from

if __name__ == "__main__":
    with clean_up_when_terminated():
        sys.exit(run_task(__doc__ or "", lambda run: export_promoted(run, home_from(os.environ), os.environ)))
