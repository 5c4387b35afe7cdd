"""The faults of the campaign: a table. Each is one kind of failure of one task, and what is expected of it.

Those of trainings stand in `training_faults`.
"""

from __future__ import annotations

from tests.campaign.kinds import KILLED, SUCCEEDS, Fault, FullDisk, Loss, LossWhileSaving, Moment
from tests.campaign.training_faults import (
    BEHIND,
    BEHIND_TRAINING,
    DESCRIBED,
    FROM_OUTSIDE,
    IN_A_RANK,
    ON_TWO_HOSTS,
    SAVING,
    WHILE_SAVING,
)

_OUT, _RECORD, _SLICE = r"merged/\.model\.ckpt\..*staged$", r"model\.ckpt\.merge\.json", r"rank_3/checkpoint"
_VERSION = r"versions/\.1\.staged/"

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
    Fault(
        "no space while promoting",
        "promote",
        "ENOSPC",
        "copy_file_range",
        "",
        message="space left.*make room",
    ),
    Fault(
        "no space for version.json",
        "promote",
        "ENOSPC",
        "open",
        r"\.1\.staged/version\.json",
        message="space left.*make room",
    ),
    Fault(
        "no space for the result of a promotion",
        "promote",
        "ENOSPC",
        "open",
        r"promotion\.json.*staged",
        message="space left.*make room",
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

_RESERVED, _DOCUMENT = r"merged/\.model\.ckpt\.parts/model\.ckpt$", r"part-1-of-2\.json.*staged$"

IN_PARTS = (
    Fault("no space while a part is written", "merge.write-1", "ENOSPC", "pwritev", _RESERVED, message="make room"),
    Fault("a part's disk fails when flushed", "merge.write-1", "EIO", "fsync", _RESERVED, message="Input/output error"),
    Fault("no space for what a part proved", "merge.write-1", "ENOSPC", "open", _DOCUMENT, message="make room"),
    Fault("short writes of a part", "merge.write-1", "short", "pwritev", _RESERVED, ends=SUCCEEDS),
    Fault(
        "a slice is rewritten while a part is written",
        "merge.write-1",
        "rewrite",
        "pwritev",
        _RESERVED,
        target="src_checkpoints/rank_3/*.ckpt",
        message="rank_3/checkpoint",
    ),
    Fault(
        "the parts are rewritten before they are committed",
        "merge.commit",
        "rewrite",
        "open",
        r"/plan\.json$",
        target="merged/.model.ckpt.parts/model.ckpt",
        message="write these parts again",
    ),
    Fault(
        "no space for the record of a merge in parts",
        "merge.commit",
        "ENOSPC",
        "open",
        r"merge\.json.*staged$",
        message="make room",
    ),
    Fault(
        "a second commit of a merge in parts at the same time",
        "merge.commit",
        "second",
        "os.rename",
        r"merged/model\.ckpt$",
        ends=SUCCEEDS,
        message="in use by process",
    ),
)
"""Of merges in two parts."""

_KEY, _PEM = "../../../../keys/team.pem", "ConfigError: SHARDLINE_SIGNING_KEY: "

SIGNING = (
    Fault(
        "the signing key is gone when a version is signed",
        "promote",
        "remove",
        "open",
        _VERSION,
        target=_KEY,
        message=_PEM,
    ),
    Fault(
        "the signing key is damaged when a version is signed",
        "promote",
        "truncate",
        "open",
        _VERSION,
        target=_KEY,
        message=_PEM,
    ),
    Fault("promotion killed while it signs", "promote", "kill", "open", r"\.staged/model\.sig", ends=KILLED),
    Fault("no space for a signature", "promote", "ENOSPC", "open", r"\.staged/model\.sig", message="No space left"),
)
"""Of promotions that sign."""

_FOREIGN, _VERSIONS = r"rank_3/CKP-1_20\.ckpt", r"versions/1/model\.ckpt"
_CUT_ANEW, _EXPORTED = r"\.resharded\..*staged/", r"exports/\.1\..*staged/"

OF_COMMANDS = (
    Fault("a slice's disk fails while adopting", "adopt", "EIO", "open", _FOREIGN, message="CKP-1_20.*Input/out"),
    Fault("no space for an adopted set's manifest", "adopt", "ENOSPC", "open", r"set-20.*staged", message="space"),
    Fault("an adopted folder is read-only", "adopt", "EROFS", "os.mkdir", "provenance", message="[Rr]ead-only"),
    Fault(
        "a second adoption of the folder at the same time",
        "adopt",
        "second",
        "os.rename",
        r"shard_set-20\.json$",
        ends=SUCCEEDS,
        message="the second: 0",
    ),
    Fault("no space while resharding", "reshard", "ENOSPC", "pwritev", _CUT_ANEW, message="make room"),
    Fault("a slice's disk fails while resharding", "reshard", "EIO", "preadv", _FOREIGN, message="CKP-1_20.*Input/out"),
    Fault("short writes while resharding", "reshard", "short", "pwritev", _CUT_ANEW, ends=SUCCEEDS),
    Fault(
        "a slice is rewritten while resharding",
        "reshard",
        "rewrite",
        "pwritev",
        _CUT_ANEW,
        target="shards/rank_0/*.ckpt",
        message=r"rank_0/CKP-1_20\.ckpt",
    ),
    Fault(
        "a second reshard to the same place at the same time",
        "reshard",
        "second",
        "pwritev",
        _CUT_ANEW,
        ends=SUCCEEDS,
        message="is being written by another process",
    ),
    Fault("no space while exporting", "export", "ENOSPC", "pwritev", _EXPORTED, message="make room"),
    Fault("no space for the record of an export", "export", "ENOSPC", "open", r"export\.json", message="make room"),
    Fault("a version's disk fails while exporting", "export", "EIO", "preadv", _VERSIONS, message="ckpt.*Input/out"),
    Fault("short writes while exporting", "export", "short", "pwritev", _EXPORTED, ends=SUCCEEDS),
    Fault(
        "a version is rewritten before it is exported",
        "export",
        "rewrite",
        "os.mkdir",
        r"exports$",
        target="models/gpt/versions/1/model.ckpt",
        message="model.ckpt",
    ),
    Fault(
        "a second export of the version at the same time",
        "export",
        "second",
        "pwritev",
        _EXPORTED,
        ends=SUCCEEDS,
        message="in use by process",
    ),
    Fault(
        "an upload's storage is full", "upload", "ENOSPC", "open", r"uploads/gpt/1/.*staged", message="No space left"
    ),
    Fault("an upload's storage fails", "upload", "EIO", "open", r"uploads/gpt/1/version", message="Input/output error"),
    Fault("an upload's storage is read-only", "upload", "EROFS", "os.mkdir", r"uploads/gpt", message="Read-only"),
    Fault(
        "a version is rewritten before it is uploaded",
        "upload",
        "rewrite",
        "os.mkdir",
        r"uploads/gpt",
        target="models/gpt/versions/1/model.ckpt",
        message="changed since; restore it",
    ),
)

STOPPED = (
    Fault(
        "the rank that validates is stopped by SIGSTOP",
        "validate",
        "stop",
        "open",
        r"/merged/.*\.ckpt$",
        message="ranks? 0.*: no answer; it is stopped",
    ),
)
"""In a rank of a task that is not training."""

AT_ANY_MOMENT = (
    Moment("prepare_dataset killed at any moment", "prepare_dataset", 5),
    Moment("a rank killed at any moment of training", "train", 3, in_a_rank=True),
    Moment("the launch of a training killed at any moment", "train", 2),
    Moment(
        "a rank killed at any moment of saving behind training",
        "train",
        6,
        in_a_rank=True,
        thread=SAVING,
        parameters=BEHIND,
    ),
    Moment("merge killed at any moment", "merge", 10),
    Moment("the rank that validates killed at any moment", "validate", 2, in_a_rank=True),
    Moment("the launch of validation killed at any moment", "validate", 2),
    Moment("promotion killed at any moment", "promote", 10),
    Moment("merge_checkpoint killed at any moment", "merge_checkpoint", 5),
    Moment("housekeeping killed at any moment", "housekeeping", 10),
    Moment("adoption killed at any moment", "adopt", 10),
    Moment("a reshard killed at any moment", "reshard", 10),
    Moment("a Hugging Face export killed at any moment", "export", 10),
    Moment("an upload killed at any moment", "upload", 5),
    Moment("the plan of a merge in parts killed at any moment", "merge.plan", 5),
    Moment("a part of a merge killed at any moment", "merge.write-1", 10),
    Moment("the commit of a merge in parts killed at any moment", "merge.commit", 10),
    Moment("a rollback killed at any moment", "rollback", 5),
)

FULL_DISKS = (
    FullDisk("a full disk while training and saving", "train", (0.0, 0.5, 0.9)),
    FullDisk("a full disk while merging and writing the record", "merge", (0.0, 0.5, 0.8)),
    FullDisk("a full disk while promoting and writing what came of it", "promote", (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)),
    FullDisk("a full disk while adopting", "adopt", (0.0, 0.5, 0.9)),
    FullDisk("a full disk while resharding", "reshard", (0.0, 0.5, 0.9)),
    FullDisk("a full disk while exporting to Hugging Face", "export", (0.0, 0.5, 0.9)),
    FullDisk("a full disk while uploading", "upload", (0.0, 0.5, 0.9)),
    FullDisk("a full disk while a merge in parts is planned", "merge.plan", (0.0, 0.5, 0.9)),
)

OF_AIRFLOW = (
    Loss("Airflow's scheduler is killed", "scheduler"),
    Loss("Airflow's API server is killed", "api-server"),
    Loss("Airflow's DAG processor is killed", "dag-processor"),
    Loss("Airflow's triggerer is killed", "triggerer"),
    Loss("the executor's process that supervises a task is killed", "supervisor of a task"),
    Loss("the process that runs a task is killed", "runner of a task"),
)

UNDER_CELERY = (
    Loss("Celery's worker is killed while it plans a merge", "merge.plan"),
    Loss("Celery's worker is killed while it writes a part of a merge", "merge.write"),
    Loss("Celery's worker is killed while it commits a merge", "merge.commit"),
    Loss("Celery's worker is killed while its ranks save", "train"),
    Loss("of Celery's worker the process group alone is killed while its ranks validate", "process group"),
    Loss("Redis is killed while a training waits in it for a worker", "queue"),
    Loss("PostgreSQL is killed during a training", "postgres"),
    Loss("Redis is killed during a training", "redis"),
    Loss("Airflow's scheduler and its API server are killed at once during a training", "scheduler and api-server"),
)
"""Brought about by `make celery`."""

ALL: tuple[Fault | Moment | FullDisk | Loss | LossWhileSaving, ...] = (
    *IN_PROCESS,
    *IN_PARTS,
    *OF_COMMANDS,
    *SIGNING,
    *DESCRIBED,
    *IN_A_RANK,
    *BEHIND_TRAINING,
    *FROM_OUTSIDE,
    *WHILE_SAVING,
    *ON_TWO_HOSTS,
    *STOPPED,
    *AT_ANY_MOMENT,
    *FULL_DISKS,
    *OF_AIRFLOW,
    *UNDER_CELERY,
)
