"""The parameters of the DAG `housekeeping`."""

from __future__ import annotations

from pydantic import Field

from shardline.settings.parameters import Parameters


class HousekeepingConfig(Parameters):
    """What to keep of old runs."""

    keep_runs: int = Field(
        10,
        ge=0,
        le=100_000,
        title="Runs to keep",
        description="The newest runs of each DAG, counting those that still have slices to free.",
    )
    merged: bool = Field(
        False,
        title="Merged files too",
        description="Free the older runs' integrated checkpoints as well. Promoted versions are copies: they stay.",
    )
    dry_run: bool = Field(False, title="Dry run", description="Only say what would be freed.")
