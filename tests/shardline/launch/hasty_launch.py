"""`tasks.launch` with less patience where nothing is proved by waiting longer.

Only what a busy machine cannot turn into a failure is shortened for all. PATIENCE, a JSON object, is for a test that
waits for what never comes. Stand-ins start up as training does: until they have met, silence is no hang.
"""

import json
import os
import sys
from pathlib import Path

import tasks.launch
from shardline.launch import supervisor
from shardline.launch.patience import Patience
from shardline.launch.work import ModuleWork

HASTY = {
    "poll_s": 0.02,
    "ranks_poll_s": 0.1,
    "growth_poll_s": 0.2,
    "cards_poll_s": 0.1,
    "leave_at_once_s": 0.3,
}

begins_of_training = ModuleWork.begins.fget


def begins(work: ModuleWork) -> tuple[Path, ...]:
    """`ModuleWork.begins`, for stand-ins as well."""
    return begins_of_training(work) or (work.directory.path / "begun",)


def main() -> int:
    ModuleWork.begins = property(begins)
    patience = Patience(**HASTY | json.loads(os.environ.get("PATIENCE", "{}")))
    tasks.launch.launch = lambda *arguments: supervisor.launch(*arguments, patience=patience)
    return tasks.launch.main()


if __name__ == "__main__":
    sys.exit(main())
