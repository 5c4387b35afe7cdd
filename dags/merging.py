"""The merge of the pipeline: one task, or a group of them on several workers.

SHARDLINE_MERGE_WORKERS, in the environment of whatever parses the DAGs, says how many: 1 (the default) is the plain
task `merge`; with more, the group `merge` plans, writes that many parts, each a mapped task on whatever worker is
free, and commits. The workers must share SHARDLINE_HOME.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

from airflow.sdk import TaskGroup

from plugins.task_operator import TaskOperator

WORKERS = "SHARDLINE_MERGE_WORKERS"
MOST_WORKERS = 1024
"""Airflow's default for `core.max_map_length`."""

MERGE = """The slices of the newest complete shard set, or of *Step to merge*, become one integrated checkpoint.

A pure function of the run directory: **clear this task alone** (Downstream off) to merge again; same slices, same
bytes."""

PLAN = """Finds the slices to merge, reserves the output, and says which parts there are: none where it is up to date.

**Clear the group `merge` alone** to merge again."""

WRITE = """Writes and proves one part of the output. May run on any worker, and again after a failure."""

COMMIT = """Publishes what the parts wrote, all or nothing: the same bytes and record as one process would."""

_TIMEOUT = timedelta(hours=6)


def merge_workers(environment: Mapping[str, str]) -> int:
    """In how many parts runs are merged; `ValueError`, which Airflow shows as an import error, for no such number."""
    text = environment.get(WORKERS) or "1"
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise ValueError(f"{WORKERS}: expected a number from 1 to {MOST_WORKERS}, found {text!r}")
    return int(text)


def merging(workers: int) -> TaskOperator | TaskGroup:
    """The task or the group `merge`, in the DAG whose `with` block this is in."""
    if workers == 1:
        return TaskOperator(task_id="merge", module="tasks.merge", execution_timeout=_TIMEOUT, doc_md=MERGE)
    with TaskGroup("merge", tooltip="Plan, write in parts on several workers, commit") as group:
        plan = TaskOperator(
            task_id="plan",
            module="tasks.merge_parts",
            arguments=("plan", "--parts", str(workers)),
            output_processor=_parts,
            execution_timeout=_TIMEOUT,
            doc_md=PLAN,
        )
        write = TaskOperator.partial(
            task_id="write",
            module="tasks.merge_parts",
            arguments=("write",),
            execution_timeout=_TIMEOUT,
            map_index_template="part {{ task.env['SHARDLINE_PART'] }}",
            doc_md=WRITE,
        ).expand(variables=plan.output)
        commit = TaskOperator(
            task_id="commit",
            module="tasks.merge_parts",
            arguments=("commit",),
            trigger_rule="none_failed",  # there are no parts where the merge is up to date
            execution_timeout=_TIMEOUT,
            doc_md=COMMIT,
        )
        write >> commit
    return group


def _parts(line: str) -> list[dict[str, str]]:
    """The environment of each part, from what plan says last."""
    return [{"SHARDLINE_PART": part} for part in json.loads(line)["parts"]]
