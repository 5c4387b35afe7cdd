"""The faults of the campaign: a table. Each is one kind of failure of one task, and what is expected of it.

A fault comes at the `count`-th call `on` of the system whose path matches `path`, in the task's own process or in
`rank` of a training; `act` says what happens there: `kill`, `term` or `stop` (that process gets the signal), the name
of an error of the system (ENOSPC), which that call and all later ones like it then have, `short` (reads and writes move
a few bytes each), `clock` (it is yesterday), `second` (the same task is started once more, and waited for), or
`remove`, `rewrite`, `truncate` of what `target`, a pattern in the run directory, matches.
"""

from __future__ import annotations

from dataclasses import dataclass

KILLED, FAILS, SUCCEEDS = "killed", "fails", "succeeds"


@dataclass(frozen=True)
class Fault:
    """`message`, a regular expression, is found in what the task prints last where it fails."""

    kind: str
    task: str
    act: str
    on: str = ""
    path: str = ""
    count: int = 1
    rank: int = 0
    target: str = ""
    ends: str = FAILS
    message: str = ""


@dataclass(frozen=True)
class Moment:
    """A task is killed at a moment that a seed draws: before one of the calls that it makes in the home, all of which
    were counted. That is the task's own process, or one of its ranks, which the seed draws as well."""

    kind: str
    task: str
    times: int
    in_a_rank: bool = False


@dataclass(frozen=True)
class FullDisk:
    """The home is a real file system, with room for a share of what the task writes there."""

    kind: str
    task: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Loss:
    """A process is killed: of a training, while its ranks stand still after their first shard set; of Airflow, at a
    moment that a seed draws, and whatever does not come back by itself is started again, as by systemd."""

    kind: str
    victim: str
    message: str = ""


_OUT, _RECORD, _SLICE = r"merged/\.model\.ckpt\..*staged$", r"model\.ckpt\.merge\.json", r"rank_3/checkpoint"
_VERSION, _SAVED = r"versions/\.1\.staged/", r"rank_1/checkpoint-1_4"

IN_PROCESS = (
    Fault("merge killed before its output is opened", "merge", "kill", "open", _OUT, ends=KILLED),
    Fault("merge killed while it writes", "merge", "kill", "pwritev", _OUT, 3, ends=KILLED),
    Fault("merge killed while it proves", "merge", "kill", "preadv", _OUT, 2, ends=KILLED),
    Fault("merge killed before the pair of records is there", "merge", "kill", "os.rename", _RECORD, ends=KILLED),
    Fault(
        "merge killed before the output has its name", "merge", "kill", "os.rename", r"merged/model\.ckpt$", ends=KILLED
    ),
    Fault("merge killed before the record has its name", "merge", "kill", "os.rename", _RECORD, 2, ends=KILLED),
    Fault("merge told to stop while it writes", "merge", "term", "pwritev", _OUT, 3),
    Fault("no space to reserve the output", "merge", "ENOSPC", "posix_fallocate", _OUT, message="make room"),
    Fault("no space while merging", "merge", "ENOSPC", "pwritev", _OUT, 2, message="make room"),
    Fault("no space for the record", "merge", "ENOSPC", "open", r"merge\.json.*staged$", message="make room"),
    Fault("quota while merging", "merge", "EDQUOT", "pwritev", _OUT, 2, message="quota"),
    Fault(
        "the output's disk fails when flushed", "merge", "EIO", "fsync", _OUT, message="model.ckpt.*Input/output error"
    ),
    Fault("a slice's disk fails", "merge", "EIO", "preadv", _SLICE, message="rank_3/checkpoint.*Input/output error"),
    Fault(
        "a slice's disk fails at its header", "merge", "EIO", "open", _SLICE, message="rank_3/checkpoint.*Input/output"
    ),
    Fault("the output's folder is read-only", "merge", "EROFS", "open", r"merged/\.model", message="read-only"),
    Fault(
        "the output's folder may not be written to",
        "merge",
        "EACCES",
        "open",
        r"merged/\.model",
        message="right to write",
    ),
    Fault("short writes", "merge", "short", "pwritev", _OUT, ends=SUCCEEDS),
    Fault("short reads", "merge", "short", "preadv", "", ends=SUCCEEDS),
    Fault(
        "the output's folder is removed while merging",
        "merge",
        "remove",
        "pwritev",
        _OUT,
        3,
        target="merged",
        message="merged",
    ),
    Fault(
        "a slice is removed while merging",
        "merge",
        "remove",
        "pwritev",
        _OUT,
        1,
        target="src_checkpoints/rank_3/*.ckpt",
        message="rank_3",
    ),
    Fault(
        "a slice is rewritten while merging",
        "merge",
        "rewrite",
        "pwritev",
        _OUT,
        1,
        target="src_checkpoints/rank_3/*.ckpt",
        message="rank_3/checkpoint",
    ),
    Fault(
        "a slice is cut while merging",
        "merge",
        "truncate",
        "pwritev",
        _OUT,
        1,
        target="src_checkpoints/rank_3/*.ckpt",
        message="rank_3/checkpoint",
    ),
    Fault(
        "the output is rewritten while it is proved",
        "merge",
        "rewrite",
        "preadv",
        _OUT,
        1,
        target="merged/.model.ckpt.*.staged",
        message="merge again|start the merge again",
    ),
    Fault(
        "a second merge of the run at the same time",
        "merge",
        "second",
        "pwritev",
        _OUT,
        1,
        ends=SUCCEEDS,
        message="in use by process",
    ),
    Fault("the clock is set back before merging", "merge", "clock", "", "", ends=SUCCEEDS),
    Fault("promotion killed before the copy", "promote", "kill", "open", _VERSION, ends=KILLED),
    Fault("promotion killed while it copies", "promote", "kill", "copy_file_range", "", ends=KILLED),
    Fault("promotion killed before version.json", "promote", "kill", "open", r"\.1\.staged/version\.json", ends=KILLED),
    Fault(
        "promotion killed before the version has its number",
        "promote",
        "kill",
        "os.rename",
        r"versions/1$",
        ends=KILLED,
    ),
    Fault(
        "promotion killed before current names the version", "promote", "kill", "os.rename", r"/current$", ends=KILLED
    ),
    Fault(
        "promotion killed before its result is there", "promote", "kill", "os.rename", r"promotion\.json$", ends=KILLED
    ),
    Fault("no space while promoting", "promote", "ENOSPC", "copy_file_range", "", message="No space left"),
    Fault(
        "no space for version.json", "promote", "ENOSPC", "open", r"\.1\.staged/version\.json", message="No space left"
    ),
    Fault(
        "no space for the result of a promotion",
        "promote",
        "ENOSPC",
        "open",
        r"promotion\.json.*staged",
        message="No space left",
    ),
    Fault("the store's disk fails when flushed", "promote", "EIO", "fsync", r"versions/", message="Input/output error"),
    Fault("the store is read-only", "promote", "EROFS", "os.mkdir", r"models", message="Read-only"),
    Fault(
        "the merged file is rewritten before promotion",
        "promote",
        "rewrite",
        "open",
        r"/\.lock$",
        target="merged/model.ckpt",
        message="clear merge",
    ),
    Fault(
        "a second promotion of the run at the same time",
        "promote",
        "second",
        "copy_file_range",
        "",
        ends=SUCCEEDS,
        message="in use by process",
    ),
    Fault("the clock is set back before promoting", "promote", "clock", "", "", ends=SUCCEEDS),
)

IN_A_RANK = (
    Fault("a rank killed while it saves", "train", "kill", "open", _SAVED, rank=1, message="rank 1.*SIGKILL"),
    Fault(
        "a rank killed before its slices have their name",
        "train",
        "kill",
        "os.rename",
        _SAVED,
        rank=1,
        message="rank 1.*SIGKILL",
    ),
    Fault(
        "rank 0 killed before the manifest",
        "train",
        "kill",
        "os.rename",
        r"shard_set-4\.json$",
        rank=0,
        message="rank 0.*SIGKILL",
    ),
    Fault(
        "no space for the manifest",
        "train",
        "ENOSPC",
        "open",
        r"\.shard_set-4\.json.*staged",
        rank=0,
        message="rank 0.*No space left",
    ),
    Fault(
        "a slice's disk fails when flushed",
        "train",
        "EIO",
        "fsync",
        _SAVED,
        rank=1,
        message="rank 1.*Input/output error",
    ),
    Fault("a rank stopped by SIGSTOP", "train", "stop", "open", _SAVED, rank=1, message="rank 1"),
    Fault(
        "the checkpoints are removed while training",
        "train",
        "remove",
        "open",
        _SAVED,
        rank=1,
        target="src_checkpoints",
        message="src_checkpoints",
    ),
)

FROM_OUTSIDE = (
    Loss("a rank is killed", "rank", "rank 1.*SIGKILL"),
    Loss("a rank's witness is killed", "witness", "rank 1"),
    Loss("mpirun is killed", "mpirun", "mpirun"),
    Loss("the supervisor is killed", "supervisor"),
    Loss("the machine goes down: all processes at once", "all"),
)

AT_ANY_MOMENT = (
    Moment("prepare_dataset killed at any moment", "prepare_dataset", 5),
    Moment("a rank killed at any moment of training", "train", 3, in_a_rank=True),
    Moment("the launch of a training killed at any moment", "train", 2),
    Moment("merge killed at any moment", "merge", 10),
    Moment("the rank that validates killed at any moment", "validate", 2, in_a_rank=True),
    Moment("the launch of validation killed at any moment", "validate", 2),
    Moment("promotion killed at any moment", "promote", 10),
    Moment("merge_checkpoint killed at any moment", "merge_checkpoint", 5),
    Moment("housekeeping killed at any moment", "housekeeping", 10),
)

FULL_DISKS = (
    FullDisk("a full disk while training and saving", "train", (0.0, 0.5, 0.9)),
    FullDisk("a full disk while merging and writing the record", "merge", (0.0, 0.5, 0.8)),
    FullDisk("a full disk while promoting and writing what came of it", "promote", (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)),
)

OF_AIRFLOW = (
    Loss("Airflow's scheduler is killed", "scheduler"),
    Loss("Airflow's API server is killed", "api-server"),
    Loss("Airflow's DAG processor is killed", "dag-processor"),
    Loss("Airflow's triggerer is killed", "triggerer"),
    Loss("the executor's process that supervises a task is killed", "supervisor of a task"),
    Loss("the process that runs a task is killed", "runner of a task"),
)

ALL = (*IN_PROCESS, *IN_A_RANK, *FROM_OUTSIDE, *AT_ANY_MOMENT, *FULL_DISKS, *OF_AIRFLOW)
