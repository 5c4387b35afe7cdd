"""The faults of trainings: a table, a part of the campaign's (`faults`)."""

from __future__ import annotations

from typing import Any

from tests.campaign.kinds import Fault, Loss, LossWhileSaving

_SAVED, _MANIFEST = r"rank_1/checkpoint-1_4", r"shard_set-4\.json$"

DESCRIBED = (
    Fault(
        "a program of one's own killed before its slice",
        "train",
        "kill",
        "os.mkdir",
        r"rank_1$",
        4,
        rank=1,
        newest=30,
        message="rank 1 .*SIGKILL",
    ),
    *(
        Fault(
            f"a program of one's own killed inside its slice, under {launcher}",
            "train",
            "cut",
            "os.mkdir",
            r"rank_1$",
            4,
            rank=1,
            newest=30,
            share=0.5,
            target="checkpoint/rank_1/linear-3_10.safetensors",
            message="rank 1 .*SIGXFSZ",
            parameters={"launcher": launcher},
        )
        for launcher in ("mpirun", "msrun")
    ),
)
"""Of trainings that a description names: in a rank of the program."""

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
        message="rank 0.*No space left on device; make room",
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

SAVING = "saving"
"""The name of the thread that saves behind the training."""
BEHIND = {"save_behind": True, "save_checkpoint_steps": 2}
_WRITTEN = r"rank_1/checkpoint-1_4.*"


def _behind(kind: str, act: str, on: str, path: str, message: str, **more: Any) -> Fault:
    """A fault of rank 1's saving thread, or another's, while it saves set 4: set 2 is whole."""
    given: dict[str, Any] = {"rank": 1, "newest": 2, "thread": SAVING, "parameters": BEHIND, **more}
    if act in ("cut", "limit", "fill"):
        given["target"] = "src_checkpoints/rank_1/checkpoint-1_2.*"
    return Fault(f"{kind}, behind training", "train", act, on, path, message=message, **given)


_INSIDE, _NO_LARGER, _NO_ROOM = (
    "rank 1.*SIGXFSZ",
    "rank 1.*File too large.*ulimit -f",
    r"rank \d.*No space left on device; make room",
)
_SAFETENSORS = {**BEHIND, "checkpoint_format": "safetensors"}

BEHIND_TRAINING = (
    *(_behind("a rank killed inside a slice", "cut", "open", _SAVED, _INSIDE, share=at) for at in (0.1, 0.5, 0.9)),
    _behind(
        "a rank killed inside a slice of safetensors",
        "cut",
        "os.rename",
        r"\.receipts/2/rank_1",  # what comes before: what writes safetensors files tells Python nothing
        _INSIDE,
        share=0.4,
        parameters=_SAFETENSORS,
    ),
    _behind("a rank killed before its slices have their name", "kill", "os.rename", _SAVED, "rank 1.*SIGKILL"),
    _behind("a rank killed before its slices are flushed", "kill", "fsync", _WRITTEN, "rank 1.*SIGKILL"),
    _behind("a rank killed before its receipt", "kill", "os.rename", r"\.receipts/4/", "rank 1.*SIGKILL"),
    _behind("rank 0 killed before the manifest", "kill", "os.rename", _MANIFEST, "rank 0.*SIGKILL", rank=0),
    *(_behind("a full disk inside a slice", "fill", "open", _SAVED, _NO_ROOM, share=at) for at in (0.05, 0.6)),
    _behind(
        "a full disk inside a slice of safetensors",
        "fill",
        "os.rename",
        r"shard_set-2\.json$",  # all have written theirs of the set before
        _NO_ROOM,
        rank=0,
        share=0.6,
        parameters=_SAFETENSORS,
    ),
    _behind("no space for the manifest", "ENOSPC", "open", r"\.shard_set-4\.json.*staged", "rank 0.*make room", rank=0),
    _behind("a slice larger than files may be", "limit", "open", _SAVED, _NO_LARGER, share=0.5),
    _behind("a slice's disk fails when flushed", "EIO", "fsync", _WRITTEN, "rank 1.*Input/output error"),
    _behind("a read-only file system", "EROFS", "open", _SAVED, "rank 1.*Read-only"),
    _behind(
        "the checkpoints are removed", "remove", "open", _SAVED, "src_checkpoints", target="src_checkpoints", newest=0
    ),
    _behind("a rank stopped by SIGSTOP", "stop", "open", _SAVED, "rank 1"),
)

SAVING_CALLS = (
    ("open", r"rank_RANK/checkpoint-1_4"),
    ("os.rename", r"rank_RANK/checkpoint-1_4"),
    ("fsync", r"rank_RANK/checkpoint-1_4"),
    ("os.rename", r"\.receipts/4/rank_RANK\.json"),
    ("os.rename", r"shard_set-4\.json$"),
)
"""By the call and its path: where a saving thread is held. The last is rank 0's alone."""

WHILE_SAVING = (
    LossWhileSaving("a rank is killed while a set is saved behind training", "rank", "rank RANK .*SIGKILL", 3),
    LossWhileSaving("a rank's witness is killed while a set is saved behind training", "witness", "rank RANK"),
    LossWhileSaving("mpirun is killed while a set is saved behind training", "mpirun", "mpirun"),
    LossWhileSaving("the supervisor is killed while a set is saved behind training", "supervisor"),
    LossWhileSaving("the machine goes down while a set is saved behind training", "all", times=3),
)

FROM_OUTSIDE = (
    Loss("a rank is killed", "rank", "rank 1.*SIGKILL"),
    Loss("a rank's witness is killed", "witness", "rank 1"),
    Loss("mpirun is killed", "mpirun", "mpirun"),
    Loss("the supervisor is killed", "supervisor"),
    Loss("the machine goes down: all processes at once", "all"),
)

ON_TWO_HOSTS = (
    Loss("mpirun's daemon on another host is killed", "daemon", r"host-b|10\.77\.0\.2"),
    Loss("a rank on another host is killed", "rank", "rank 3 on host-b .*SIGKILL"),
    Loss("all processes on another host are killed", "all there", r"host-b|10\.77\.0\.2"),
    Loss("mpirun is killed, which has ranks on another host", "mpirun", "mpirun.*SIGKILL"),
    Loss("the supervisor is killed, which has ranks on another host", "supervisor"),
    Loss("the network between two hosts is cut", "network", "cannot see whether .* on the other hosts.*hang_timeout"),
)
