"""Which files of a folder are the slices of a step."""

import os
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import ConfigError, LayoutError, MissingShard, StepMismatch, UnsupportedFormat
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.finding import find_slices
from tests.shardline.checkpoint.sharding import save_manifest, save_strategy


def save(directory: Path, *names: str, ranks: int = 2) -> None:
    for rank in range(ranks):
        (directory / f"rank_{rank}").mkdir(parents=True, exist_ok=True)
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
    with pytest.raises(StepMismatch, match=r"saved as c-1_5.ckpt and as c-1_5.safetensors, by different runs"):
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


def at(directory: Path, name: str, day: int) -> None:
    for path in directory.glob(f"rank_*/{name}"):
        os.utime(path, (1.7e9 + day * 86_400,) * 2)


def test_ranks_may_stand_in_the_names_of_one_folder(tmp_path):
    for rank in range(12):
        write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / f"llama_rank_{rank}-1_2.ckpt")
        write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / f"llama_rank_{rank}-1_10.ckpt")
    write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / "whole.ckpt")
    assert chosen(tmp_path) == [f"llama_rank_{rank}-1_10.ckpt" for rank in range(12)]


def test_what_lies_beside_is_left_alone(tmp_path):
    """Jupyter's, macOS's, editors' and other people's copies; a folder that is named like a checkpoint."""
    save(tmp_path, "c-1_5.ckpt")
    for stray in ("rank_0.bak", "rank_00", "rank_0_1", "rank_1 (copy)", ".ipynb_checkpoints"):
        (tmp_path / stray).mkdir()
        write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / stray / "c-1_6.ckpt")
    (tmp_path / "rank_1" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "rank_1" / "c-1_6.ckpt").mkdir()
    for stray in ("._c-1_6.ckpt", "c-1_6.ckpt.tmp", "c-1_6.ckpt~", ".c-1_6.ckpt.swp", "#c-1_6.ckpt#", ".ckpt"):
        (tmp_path / "rank_1" / stray).write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    assert chosen(tmp_path) == ["c-1_5.ckpt"] * 2
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_of_a_larger_training_before_a_restart_are_left_out_and_said(tmp_path):
    save(tmp_path, "c-1_5.ckpt", ranks=4)
    at(tmp_path, "c-1_5.ckpt", 1)
    save(tmp_path, "c_1-1_1.ckpt", ranks=2)
    at(tmp_path, "c_1-1_1.ckpt", 2)
    found = find_slices(tmp_path, 2)
    assert [file.path.name for file in found.files] == ["c_1-1_1.ckpt"] * 2
    assert any("ranks [2, 3] are left out: the strategy shards over 2 ranks" in notice for notice in found.notices)


def test_folders_that_lack_two_saves_are_of_an_earlier_training(tmp_path):
    save(tmp_path, "c-1_1.ckpt", ranks=4)
    save(tmp_path, "c-1_2.ckpt", "c-1_3.ckpt", ranks=2)
    assert [file.path.name for file in find_slices(tmp_path, 2).files] == ["c-1_3.ckpt"] * 2


def test_folders_that_lack_one_save_may_be_of_a_killed_training(tmp_path):
    """Then the strategy is another run's: nothing in a .ckpt would show it."""
    save(tmp_path, "c-1_1.ckpt", ranks=4)
    save(tmp_path, "c-1_2.ckpt", ranks=2)
    with pytest.raises(LayoutError, match=r"ranks \[2, 3\] have no c-1_2.ckpt: .* earlier training, say --step 1_2"):
        find_slices(tmp_path, 2)
    assert [file.path.name for file in find_slices(tmp_path, 2, "1_2").files] == ["c-1_2.ckpt"] * 2
    with pytest.raises(LayoutError, match="shards over 2 ranks, there are folders of 4"):
        find_slices(tmp_path, 2, "1_1")


def test_folders_with_newer_files_are_not_left_out(tmp_path):
    save(tmp_path, "c-1_1.ckpt", ranks=2)
    save(tmp_path, "d-1_1.ckpt", ranks=4)
    at(tmp_path, "c-1_1.ckpt", 1)
    for rank in range(2):
        (tmp_path / f"rank_{rank}" / "d-1_1.ckpt").unlink()
    with pytest.raises(LayoutError, match=r"ranks \[2, 3\] have no c-1_1.ckpt"):
        find_slices(tmp_path, 2)


def test_a_manifest_that_is_not_the_last_is_refused(tmp_path):
    strategy = save_strategy(tmp_path / "s.ckpt")
    for step, day in ((90, 1), (30, 2)):
        save(tmp_path, f"c-1_{step}.ckpt")
        save_manifest(tmp_path, strategy, step=step)
        os.utime(tmp_path / f"shard_set-{step}.json", (1.7e9 + day * 86_400,) * 2)
    with pytest.raises(StepMismatch, match=r"step 30 was saved after it.* choose with --step 90 or --step 30"):
        find_slices(tmp_path, None)
    assert chosen(tmp_path, "90") == ["c-1_90.ckpt"] * 2


def test_newer_files_without_a_manifest_are_said(tmp_path):
    save(tmp_path, "c-1_5.ckpt")
    save_manifest(tmp_path, save_strategy(tmp_path / "s.ckpt"), step=5)
    at(tmp_path, "c-1_5.ckpt", 1)
    save(tmp_path, "d-1_6.ckpt")
    (notice,) = find_slices(tmp_path, None).notices
    assert notice.startswith("taking step 5, the newest that has a manifest; d-1_6.ckpt is newer on all ranks")
    assert [file.path.name for file in find_slices(tmp_path, None, prefix="d").files] == ["d-1_6.ckpt"] * 2
    assert find_slices(tmp_path, None, prefix="c").shard_set is not None


@pytest.mark.parametrize("content", [[], ["rank_0"], ["rank_00", "rank_1"]])
def test_folders_without_slices_are_refused(tmp_path, content):
    for name in content:
        (tmp_path / name).mkdir()
    with pytest.raises(MissingShard):
        find_slices(tmp_path, None)


def test_a_folder_of_another_kind_is_named_with_what_to_give(tmp_path):
    save(tmp_path / "output" / "checkpoint", "c-1_5.ckpt")
    save(tmp_path / "output" / "checkpoint_network", "c-network.ckpt")
    with pytest.raises(MissingShard, match=r"give one: .*output/checkpoint, .*output/checkpoint_network"):
        find_slices(tmp_path / "output", None)
    with pytest.raises(MissingShard, match=r"is the folder of one rank; give .*output/checkpoint, which"):
        find_slices(tmp_path / "output" / "checkpoint" / "rank_1", None)
    with pytest.raises(UnsupportedFormat, match="is a file; expected the folder that holds rank_0"):
        find_slices(tmp_path / "output" / "checkpoint" / "rank_1" / "c-1_5.ckpt", None)
    (tmp_path / "whole").mkdir()
    write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / "whole" / "model.safetensors")
    with pytest.raises(UnsupportedFormat, match=r"holds a whole model.* give it to shardline reshard --from"):
        find_slices(tmp_path / "whole", None)
    (tmp_path / "output").rename(tmp_path / "ttp_saved_checkpoints-step_7_tmp")
    with pytest.raises(MissingShard, match="takes _tmp off this folder's name when all ranks have saved"):
        find_slices(tmp_path / "ttp_saved_checkpoints-step_7_tmp", None)


def test_ranks_folders_of_other_names_are_named(tmp_path):
    """As in MindSpore's own examples: ./rank_0_ckpt/parallel-2_4.ckpt."""
    for rank in range(2):
        (tmp_path / f"rank_{rank}_ckpt").mkdir()
    with pytest.raises(MissingShard, match="found rank_0_ckpt, rank_1_ckpt; give these folders those names"):
        find_slices(tmp_path, None)


def test_a_rank_that_is_missing_in_a_flat_folder_is_named(tmp_path):
    for rank in (0, 1, 3):
        write_checkpoint({"w": np.zeros(2, np.float32)}, tmp_path / f"llama_rank_{rank}-1_2.ckpt")
    with pytest.raises(MissingShard, match=r"the files of ranks \[2\] are missing"):
        find_slices(tmp_path, 4)


def test_a_folder_of_strategies_is_named(tmp_path):
    for rank in range(2):
        save_strategy(tmp_path / f"ckpt_strategy_rank_{rank}.ckpt")
    with pytest.raises(UnsupportedFormat, match="holds strategy files, no slices; give it as --strategy"):
        find_slices(tmp_path, None)


def test_a_strategy_of_very_many_ranks_is_refused_at_once(tmp_path):
    save(tmp_path, "c-1_5.ckpt")
    with pytest.raises(MissingShard, match="copy the folders of ranks 2 to 999999999999 here"):
        find_slices(tmp_path, 10**12)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingShard, match="there is no such folder"):
        find_slices(tmp_path / "x", None)
