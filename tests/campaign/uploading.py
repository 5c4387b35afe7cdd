"""The task upload as its operator does it, to a folder beside the home: `python -m tests.campaign.uploading`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from plugins.upload import upload_promoted
from shardline.run.command_line import run_task
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from


def upload(run: RunDirectory) -> Mapping[str, Any]:
    """Upload what the run promoted."""
    promoted = json.loads(run.promotion_file.read_bytes())
    place = f"file://{home_from(os.environ).path}-uploads"
    return upload_promoted(promoted, run.read_config().model_name, place)


if __name__ == "__main__":
    sys.exit(run_task(__doc__ or "", upload))
