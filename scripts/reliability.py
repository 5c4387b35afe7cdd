"""Makes docs/reliability.md of what the campaign recorded, and of nothing else.

    make campaign                                        runs it; appends to build/campaign.jsonl
    python -m scripts.reliability FILE > docs/reliability.md

FILE has one JSON object a line, as `tests/campaign_record.py` writes them; that of the page as it is, which a test
compares with it, is `tests/campaign/record.jsonl`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shardline.base.counts import counted

_HEAD = """# Reliability

What was done to Shardline on purpose, and what became of it. `make campaign` does it again; this
page is made of its record by `python -m scripts.reliability`, and says nothing that did not run.

## What is promised

- **Nothing half-written is ever visible**, whichever process dies and wherever: a shard set exists when its
  manifest does, a merged file has its record, a version of the model store has all its files. After a power
  failure, too, on a local file system that keeps what was flushed.
- **The same task done again ends like one that nothing disturbed**: the same bytes, one version, nothing
  left behind.
- **What fails says so in one message**, which names the file, or the rank, and what to do.
- **Damaged files** are read for what they say, or refused by name. None of those that were tried below took more
  than 2 seconds of the processor, or more memory than 10 times its size and 64 MiB.
"""
_TAIL = """## What is not promised

- Anything on a file system **without locks**, such as NFS without its lock service: tasks refuse to start
  where they notice.
- Anything about **disks that lie**: that say flushed and are not, or return other bytes than were written.
  Digests find the second when something is read again.
- **Clocks**: of two merges in a run directory the newer record is told by the times that the file system
  gives; whether another host's abandoned file is removed depends on its clock.
- That no process is left **beyond a network that is cut**: the launch says that it cannot see, and the next try
  that reaches the host ends them.
- That a **reader** of a run keeps a shard set from being replaced by the same run's own training
  (*Checkpoints to keep*); it keeps housekeeping away only.

## What was never tried here

- Real power failures, and real disks that fail: failures of the disk are raised at Python's calls of the
  system. A full disk is a real one: a small file system in memory.
- Hosts of their own: the two hosts of some trainings are namespaces of one machine, which share its disk. NFS
  servers that go away.
- Cards: the trainings of the campaign run on CPUs, with four ranks, with one where Airflow is hit, with
  two under Celery.
"""
_PARTS = {
    "faults": (
        "## Failures of tasks",
        """Each is brought about in a run of its own, whose tasks are then done again to the end, by hand, or by Airflow
where a process of Airflow is killed. Compared with a run that nothing disturbed: the merged bytes, the versions,
processes and files left behind; the message is the right one. The table of them is `tests/campaign/faults.py`. What
comes at any moment comes at one that its seed draws: the same when that test is run again.

What Celery, PostgreSQL and Redis suffer is brought about by `make celery`, in the middle of the task that is named:
one run's training is hit by all of it in turn, another run is merged again.
Compared are the merged bytes and the tries.""",
    ),
    "disk": (
        "## A disk that dies at any call",
        """Saving, resuming, setting a damaged set aside, merging, resharding, promoting, going back and housekeeping of
three runs, and adopting what another program saves, in any order, on a disk that dies at any call and loses or
reorders what was not flushed (`tests/lossy_disk.py`). After every death all that is visible is whole, and what queued
and running tasks need exists (`tests/protocol/invariants.py`).""",
    ),
    "parsers": (
        "## Files with anything in them",
        "Whole files with bytes or values changed (`tests/fuzz`). Right is what they say, or an error of Shardline's.",
    ),
}


def page(lines: Iterable[str], known: Iterable[str] = ()) -> str:
    """The page; of what was recorded again, the last counts, and of those before it the ones that failed are told. Of
    the `known` kinds those not recorded are named."""
    records = [json.loads(line) for line in lines]
    parts = [_part(part, [each for each in records if each["part"] == part]) for part in _PARTS]
    recorded = {each["kind"] for each in records}
    untried = "".join(
        f"- In the table of faults, but not run to its end yet: {k}.\n"
        for k in dict.fromkeys(known)
        if k not in recorded
    )
    return "\n".join([_HEAD, *parts, _TAIL + untried])


def _part(part: str, records: list[Mapping[str, Any]]) -> str:
    title, what = _PARTS[part]
    tries = sum(each["tries"] for each in records)
    kinds = dict.fromkeys(each["kind"] for each in records)
    rows = "\n".join(_row(kind, [each for each in records if each["kind"] == kind]) for kind in kinds)
    count = f"{counted(len(kinds), 'kind')}, tried {counted(tries, 'time', spec=',')}." if records else "Not tried."
    table = f"\n| kind | times | result | seed |\n|---|---|---|---|\n{rows}\n" if records else ""
    return f"{title}\n\n{what}\n\n{count}\n{table}"


def _row(kind: str, records: list[Mapping[str, Any]]) -> str:
    """Of all the tries of a kind: the last of each seed says what came of it."""
    tries = sum(each["tries"] for each in records)
    last = {str(each["seed"]): each for each in records}
    failed = [problem for each in last.values() for problem in each["failed"]]
    result = f"failed: {_cell('; '.join(failed))}" if failed else "as promised"
    if before := [each for each in records if each["failed"] and each is not last[str(each["seed"])]]:
        result += f"; before that {counted(len(before), 'try', 'tries')} failed: {_cell(before[-1]['failed'][0], 120)}"
    return f"| {_cell(kind)} | {tries:,} | {result} | {_seeds(last.values()) or 'none: it comes at one place'} |"


def _seeds(records: Iterable[Mapping[str, Any]]) -> str:
    """All of them; of three numbers or more in a row, the first and the last."""
    seeds = [each["seed"] for each in records if each["seed"] is not None]
    numbers = sorted(seed for seed in seeds if isinstance(seed, int))
    if len(numbers) > 2 and numbers == [*range(numbers[0], numbers[-1] + 1)] and len(numbers) == len(seeds):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, seeds))


def _cell(text: str, length: int = 300) -> str:
    return " ".join(text.replace("|", "\\|").split())[:length]


def main() -> int:
    """The command line."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    from tests.campaign.faults import ALL

    known = [fault.kind for fault in ALL]
    print(page(Path(sys.argv[1]).read_text().splitlines(), known), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
