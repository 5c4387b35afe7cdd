"""The merge of a run in parts: planned, written part by part, and published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shardline.base.progress import Meter
from shardline.checkpoint.merging.merge import Merged, merge
from shardline.checkpoint.merging.parts import Part, commit_parts, is_merged, is_planned, plan_parts, write_part
from shardline.run.directory import RunDirectory
from shardline.run.readers import reading
from shardline.run.slices_to_merge import request_of, result_of


def plan_run(run: RunDirectory, count: int, workers: int | None = None) -> dict[str, Any]:
    """Plan the run's merge in `count` parts, and say which are to be written: none where it was merged already."""
    parts = [Part(number, count).name for number in range(1, count + 1)]
    request = request_of(run, workers)
    if is_merged(request):
        print(f"{request.output} is up to date: there is nothing to write")
        return {"parts": []}
    return plan_parts(request) | {"parts": parts}


def write_part_of_run(run: RunDirectory, part: Part, workers: int | None, meter: Meter) -> dict[str, Any]:
    """Write one part of the run's planned merge; several processes may, at once."""
    with reading(run.path):
        return write_part(run.merged_file(run.read_any_config()), part, workers, meter)


def commit_run(
    run: RunDirectory, workers: int | None, meter: Meter, tell: Callable[[Merged], None] = lambda _: None
) -> dict[str, Any]:
    """Publish what the parts wrote.

    Without their plan, which a commit that was killed may have used up, `merge` does what is left: nothing, or all.
    """
    request = request_of(run, workers)
    merged = commit_parts(request.output, workers, meter) if is_planned(request) else merge(request, meter)
    tell(merged)
    return result_of(run, merged)
