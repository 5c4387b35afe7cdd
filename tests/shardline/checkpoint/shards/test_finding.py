"""Which files of a folder are the slices of a step."""

from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import ConfigError, LayoutError, MissingShard, StepMismatch
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.finding import find_slices
from tests.shardline.checkpoint.sharding import save_manifest, save_strategy


def save(directory: Path, *names: str, ranks: int = 2) -> None:
    for rank in range(ranks):
        (directory / f"rank_{rank}").mkdir(exist_ok=True)
        for name in names:
            write_checkpoint({"w": np.zeros(2, np.float32)}, directory / f"rank_{rank}" / name)


def chosen(directory: Path, step: str | None = None) -> list[str]:
    return [file.path.name for file in find_slices(directory, None, step).files]


def test_the_newest_epoch_and_step_are_taken_numerically(tmp_path):
    save(tmp_path, "c-9_100.ckpt", "c-10_5.ckpt", "c-10_20.ckpt", "c-10_9.ckpt")
    assert chosen(tmp_path) == ["c-10_20.ckpt"] * 2


def test_other_files_beside_the_checkpoints_are_passed_over(tmp_path):
    save(tmp_path, "c-1_5.ckpt")
    (tmp_path / "rank_0" / "c-graph.meta").write_bytes(b"")
    (tmp_path / "rank_0" / ".c-1_6.ckpt.123.staged").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "rank_x").mkdir()
    assert chosen(tmp_path) == ["c-1_5.ckpt"] * 2


def test_a_single_file_may_have_any_name(tmp_path):
    for rank in range(2):
        save(tmp_path, ranks=2)
        write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / f"rank_{rank}" / f"merged{rank}.safetensors")
    assert chosen(tmp_path) == ["merged0.safetensors", "merged1.safetensors"]


def test_a_step_that_two_epochs_have_needs_its_epoch(tmp_path):
    save(tmp_path, "c-1_5.ckpt", "c-2_5.ckpt")
    with pytest.raises(ConfigError, match="give EPOCH_STEP, such as 2_5"):
        find_slices(tmp_path, None, "5")
    assert chosen(tmp_path, "1_5") == ["c-1_5.ckpt"] * 2


def test_a_step_that_some_ranks_lack_names_them(tmp_path):
    save(tmp_path, "c-1_5.ckpt")
    (tmp_path / "rank_1" / "c-1_5.ckpt").rename(tmp_path / "rank_1" / "c-1_6.ckpt")
    with pytest.raises(MissingShard, match=r"ranks \[1\] have no checkpoint of step 5"):
        find_slices(tmp_path, None, "5")


def test_one_step_in_two_formats_is_refused(tmp_path):
    save(tmp_path, "c-1_5.ckpt", "c-1_5.safetensors")
    with pytest.raises(StepMismatch, match=r"saved as c-1_5.ckpt and as c-1_5.safetensors"):
        find_slices(tmp_path, None)


def test_a_manifest_comes_before_names(tmp_path):
    save(tmp_path, "c-1_5.ckpt")
    save_manifest(tmp_path, save_strategy(tmp_path / "s.ckpt"), step=5)
    save(tmp_path, "c-1_6.ckpt")
    assert chosen(tmp_path) == ["c-1_5.ckpt"] * 2
    assert chosen(tmp_path, "1_6") == ["c-1_6.ckpt"] * 2
    with pytest.raises(MissingShard, match=r"there are those of steps \[5\]"):
        find_slices(tmp_path, None, "6")


def test_the_number_of_ranks_must_be_the_strategys(tmp_path):
    save(tmp_path, "c-1_5.ckpt", ranks=4)
    with pytest.raises(LayoutError, match="shards over 2 ranks, there are folders of 4"):
        find_slices(tmp_path, 2)
    with pytest.raises(MissingShard, match="copy the folders of ranks 4 to 7 here"):
        find_slices(tmp_path, 8)


@pytest.mark.parametrize("content", [[], ["rank_0"], ["rank_00", "rank_1"]])
def test_folders_without_slices_are_refused(tmp_path, content):
    for name in content:
        (tmp_path / name).mkdir()
    with pytest.raises(MissingShard):
        find_slices(tmp_path, None)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingShard, match="there is no such folder"):
        find_slices(tmp_path / "x", None)
