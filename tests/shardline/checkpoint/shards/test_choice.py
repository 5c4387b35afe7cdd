"""Of several trainings' files in one folder, the one is taken that can be known to be meant; else all are listed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import MissingShard, StepMismatch
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.finding import Found, locate_slices

DAY = 86_400


def save(directory: Path, name: str, day: float = 0, ranks: range = range(4)) -> None:
    """A file of that name, `{}` standing for the rank, in every rank's folder, written on that day."""
    for rank in ranks:
        path = directory / f"rank_{rank}" / name.format(rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint({"w": np.zeros(2, np.float32)}, path)
        os.utime(path, (1.7e9 + day * DAY,) * 2)


def meta(directory: Path, name: str, ranks: range = range(4)) -> None:
    """MindFormers' record of the last save, as its CheckpointMonitor writes it."""
    for rank in ranks:
        document = {"last_epoch": 1, "last_step": 2, "last_ckpt_file": name.format(rank)}
        (directory / f"rank_{rank}" / "meta.json").write_text(json.dumps(document))


def found(directory: Path, **wanted: str) -> Found:
    return locate_slices(directory, 4, **wanted)


def names(directory: Path, **wanted: str) -> list[str]:
    return [path.name for path in found(directory, **wanted).files]


def test_a_restart_is_taken_though_its_numbers_are_smaller(tmp_path):
    save(tmp_path, "CKP-3_10.ckpt", day=1)
    save(tmp_path, "CKP_1-1_10.ckpt", day=2)
    assert names(tmp_path) == ["CKP_1-1_10.ckpt"] * 4
    assert found(tmp_path).notices == (
        "taking CKP_1-1_10.ckpt, not CKP-3_10.ckpt of an earlier training; --prefix CKP takes that",
    )
    assert names(tmp_path, prefix="CKP") == ["CKP-3_10.ckpt"] * 4
    assert names(tmp_path, step="3_10") == ["CKP-3_10.ckpt"] * 4


def test_a_restart_of_mindformers_is_taken(tmp_path):
    save(tmp_path, "llama_rank_{}-3_10.ckpt", day=1)
    save(tmp_path, "llama_rank_{}_1-1_5.ckpt", day=2)
    save(tmp_path, "llama_rank_{}_2-1_4.ckpt", day=3)
    assert names(tmp_path) == [f"llama_rank_{rank}_2-1_4.ckpt" for rank in range(4)]
    assert names(tmp_path, prefix="llama_rank_*") == [f"llama_rank_{rank}-3_10.ckpt" for rank in range(4)]
    assert names(tmp_path, prefix="llama_rank_*_1") == [f"llama_rank_{rank}_1-1_5.ckpt" for rank in range(4)]
    assert names(tmp_path, prefix="llama") == [f"llama_rank_{rank}_2-1_4.ckpt" for rank in range(4)]


@pytest.mark.parametrize("days", [(2, 1), (1, 1)], ids=["older", "of the same time"])
def test_a_restart_that_the_times_do_not_confirm_is_refused(tmp_path, days):
    save(tmp_path, "CKP-3_10.ckpt", day=days[0])
    save(tmp_path, "CKP_1-1_10.ckpt", day=days[1])
    with pytest.raises(
        StepMismatch, match=r"(?s)saved as CKP-3_10.ckpt and as CKP_1-1_10.*--prefix CKP .*--prefix CKP_1"
    ):
        found(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "options"),
    [
        ("old-9_1.ckpt", "new-1_1.ckpt", ("old", "new")),
        ("gpt_7-9_1.ckpt", "gpt_13-1_1.ckpt", ("gpt_7", "gpt_13")),
        ("CKP-1_1.ckpt", "CKP-1_1.safetensors", ("CKP-1_1.ckpt", "CKP-1_1.safetensors")),
        ("CKP-2_1.ckpt", "CKP-1_1.safetensors", ("CKP-2_1.ckpt", "CKP-1_1.safetensors")),
        ("CKP-1_1.ckpt", "final.ckpt", ("CKP", "final")),
        ("CKP-1_5.ckpt", "CKP-1_7_breakpoint.ckpt", ("CKP-1_5.ckpt", "CKP-1_7_breakpoint.ckpt")),
        ("CKP-1_10.ckpt", "CKP-exception.ckpt", ("CKP", "CKP-exception")),
        ("CKP-1_1.ckpt", "CKP-01_001.ckpt", ("CKP-1_1.ckpt", "CKP-01_001.ckpt")),
        ("a_rank_{}-1_1.ckpt", "b_rank_{}-1_1.ckpt", ("a_rank_*", "b_rank_*")),
    ],
)
def test_what_cannot_be_told_apart_is_listed_with_options_that_choose(tmp_path, first, second, options):
    save(tmp_path, first, day=1)
    save(tmp_path, second, day=2)
    with pytest.raises(StepMismatch) as refused:
        found(tmp_path)
    for option, name in zip(options, (first, second), strict=True):
        assert f"--prefix {option}" in str(refused.value).replace("'", "")
        assert names(tmp_path, prefix=option) == [name.format(rank) for rank in range(4)]


def test_all_ranks_meta_json_decides(tmp_path):
    save(tmp_path, "old_rank_{}-9_1.ckpt", day=1)
    save(tmp_path, "new_rank_{}-1_2.ckpt", day=1)
    meta(tmp_path, "new_rank_{}-1_2.ckpt")
    assert names(tmp_path) == [f"new_rank_{rank}-1_2.ckpt" for rank in range(4)]
    assert found(tmp_path).notices[0].startswith("taking new_rank_0-1_2.ckpt, not old_rank_0-9_1.ckpt")


def test_meta_json_that_the_times_contradict_does_not(tmp_path):
    save(tmp_path, "a_rank_{}-1_2.ckpt", day=1)
    save(tmp_path, "b_rank_{}-1_2.ckpt", day=2)
    meta(tmp_path, "a_rank_{}-1_2.ckpt")
    with pytest.raises(StepMismatch, match="choose one"):
        found(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"", b"[]", b"[" * 99_999, b"{" * 99_999, b'{"last_ckpt_file": 1}', b'{"last_ckpt_file": "x"}', b"\xff",
     b'{"last_epoch": ' + b"9" * 9_999 + b"}"],
)  # fmt: skip
def test_a_meta_json_that_says_nothing_decides_nothing(tmp_path, content):
    save(tmp_path, "a_rank_{}-1_2.ckpt")
    save(tmp_path, "b_rank_{}-1_2.ckpt")
    meta(tmp_path, "a_rank_{}-1_2.ckpt")
    (tmp_path / "rank_2" / "meta.json").write_bytes(content)
    with pytest.raises(StepMismatch, match="choose one"):
        found(tmp_path)
    assert names(tmp_path, prefix="a") == [f"a_rank_{rank}-1_2.ckpt" for rank in range(4)]


def test_a_breakpoint_that_is_older_is_passed_over_and_said(tmp_path):
    save(tmp_path, "CKP-1_5.ckpt", day=1)
    save(tmp_path, "CKP-1_7_breakpoint.ckpt", day=2)
    save(tmp_path, "CKP_1-1_3.ckpt", day=3)
    assert names(tmp_path) == ["CKP_1-1_3.ckpt"] * 4
    assert "not CKP-1_7_breakpoint.ckpt of a training that failed" in found(tmp_path).notices[1]
    assert names(tmp_path, step="1_7") == ["CKP-1_7_breakpoint.ckpt"] * 4


def test_a_breakpoint_alone_is_taken(tmp_path):
    save(tmp_path, "CKP-1_7_breakpoint.ckpt")
    assert names(tmp_path) == ["CKP-1_7_breakpoint.ckpt"] * 4
    assert found(tmp_path).step == "1_7"


def test_greater_numbers_that_are_older_are_refused(tmp_path):
    """A prefix that a function makes is the same for every training."""
    save(tmp_path, "CKP-9_1.ckpt", day=1)
    save(tmp_path, "CKP-1_1.ckpt", day=2)
    with pytest.raises(StepMismatch, match="choose with --step 9_1 or --step 1_1"):
        found(tmp_path)
    assert names(tmp_path, step="9_1") == ["CKP-9_1.ckpt"] * 4


def test_times_of_a_copy_say_nothing(tmp_path):
    save(tmp_path, "CKP-10_1.ckpt", day=1)
    save(tmp_path, "CKP-9_1.ckpt", day=1 + 30 / DAY)
    assert names(tmp_path) == ["CKP-10_1.ckpt"] * 4
    assert found(tmp_path).notices == ()


def test_ranks_of_two_trainings_under_one_name_are_refused(tmp_path):
    """Ranks 2 and 3 had no older files, so that MindSpore didn't number the restart there."""
    save(tmp_path, "CKP-1_10.ckpt", day=1, ranks=range(2))
    save(tmp_path, "CKP_1-1_10.ckpt", day=2, ranks=range(2))
    save(tmp_path, "CKP-1_10.ckpt", day=2.001, ranks=range(2, 4))
    for wanted in ({}, {"step": "1_10"}, {"prefix": "CKP*"}):
        with pytest.raises(StepMismatch, match=r"of one training and others' of the next.*say --prefix CKP$"):
            found(tmp_path, **wanted)
    assert names(tmp_path, prefix="CKP") == ["CKP-1_10.ckpt"] * 4
    assert any("of one training and others' of the next" in notice for notice in found(tmp_path, prefix="CKP").notices)


def test_a_restart_that_only_some_ranks_saved_is_passed_over_and_said(tmp_path):
    save(tmp_path, "CKP-1_10.ckpt", day=1)
    save(tmp_path, "CKP_1-1_5.ckpt", day=2, ranks=range(2))
    assert names(tmp_path) == ["CKP-1_10.ckpt"] * 4
    assert found(tmp_path).notices == (
        "taking CKP-1_10.ckpt; CKP_1-1_5.ckpt is on ranks [0, 1] only, and no other save of that training is on all",
    )


def test_ranks_that_saved_at_other_times_are_said(tmp_path):
    save(tmp_path, "CKP-1_10.ckpt", day=1, ranks=range(2))
    save(tmp_path, "CKP-1_10.ckpt", day=1.02, ranks=range(2, 4))
    (notice,) = found(tmp_path).notices
    assert "of rank 0 was written 2023-11-1" in notice
    assert "their ranks are of two trainings" in notice


def test_formats_mixed_over_the_ranks_are_refused(tmp_path):
    save(tmp_path, "CKP-1_1.ckpt", ranks=range(2))
    save(tmp_path, "CKP-1_1.safetensors", ranks=range(2, 4))
    with pytest.raises(
        StepMismatch, match=r"newest: ranks \[0, 1\]: CKP-1_1.ckpt; ranks \[2, 3\]: CKP-1_1.safetensors"
    ):
        found(tmp_path)


def test_a_file_in_another_ranks_folder_is_named(tmp_path):
    save(tmp_path, "a_rank_{}-1_1.ckpt", ranks=range(2, 4))
    for rank, other in ((0, 1), (1, 0)):
        save(tmp_path, f"a_rank_{other}-1_1.ckpt", ranks=range(rank, rank + 1))
    with pytest.raises(StepMismatch, match=r"rank_1/a_rank_0-1_1.ckpt names rank 0: is every file in its own rank's"):
        found(tmp_path)


def test_a_prefix_that_no_file_has_is_named_with_those_there_are(tmp_path):
    save(tmp_path, "a-1_1.ckpt")
    save(tmp_path, "b_rank_{}-1_1.ckpt")
    with pytest.raises(MissingShard, match=r"no file has the prefix 'c'; there are a, b_rank_\*"):
        found(tmp_path, prefix="c")
    assert names(tmp_path, prefix="b*") == [f"b_rank_{rank}-1_1.ckpt" for rank in range(4)]


def test_a_restart_whose_ranks_saved_different_steps_is_passed_over_and_said(tmp_path):
    save(tmp_path, "CKP-1_10.ckpt", day=1)
    save(tmp_path, "CKP_1-1_5.ckpt", day=2, ranks=range(2))
    save(tmp_path, "CKP_1-1_4.ckpt", day=2, ranks=range(2, 4))
    assert names(tmp_path) == ["CKP-1_10.ckpt"] * 4
    assert found(tmp_path).notices[0].startswith("taking CKP-1_10.ckpt; CKP_1-1_5.ckpt is on ranks [0, 1] only, and no")
