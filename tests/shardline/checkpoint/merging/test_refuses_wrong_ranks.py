"""Files and folders of ranks that are missing, mixed up, or of different steps and runs."""

import json
import shutil

import numpy as np
import pytest

from shardline.base.errors import CorruptShard, LayoutError, MissingShard, ReplicaMismatch, StepMismatch
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.merge_case import Case
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, slices_of, tensors


@pytest.mark.parametrize("proof", [True, False])
def test_replicas_that_differ_are_refused(case, proof):
    case.rewrite(5, **{"layer1.bias": tensors()["layer1.bias"] + 1})
    case.refused(ReplicaMismatch, r"parameter layer1.bias.*rank 5", proof=proof)


def test_ranks_at_different_steps_are_refused(case):
    case.file(4).rename(case.file(4, "checkpoint-1_10.ckpt"))
    case.refused(StepMismatch, r"no step in common.*ranks \[4\]: checkpoint-1_10.ckpt")


def test_a_newer_step_that_some_ranks_lack_is_passed_over_and_said(case):
    for rank in range(3):
        shutil.copy(case.file(rank), case.file(rank, "checkpoint-1_30.ckpt"))
    notices = case.merge().notices
    assert notices[0].startswith("taking checkpoint-1_20.ckpt")
    assert "checkpoint-1_30.ckpt is on ranks [0, 1, 2] only" in notices[0]


def test_steps_are_compared_as_numbers(case):
    save_shards(case.shards, tensors(seed=1), name="checkpoint-1_90.ckpt")
    save_shards(case.shards, tensors(seed=2), name="checkpoint-1_100.ckpt")
    save_shards(case.shards, tensors(seed=3), name="checkpoint-1_9.ckpt")
    merged = read_checkpoint(case.merge().output)
    assert np.array_equal(merged["layer1.bias"], tensors(seed=2)["layer1.bias"])


def test_two_runs_in_one_folder_are_refused(case):
    save_shards(case.shards, tensors(seed=1), name="checkpoint_1-1_20.ckpt")
    case.refused(StepMismatch, "by different runs")


@pytest.mark.parametrize("proof", [True, False])
def test_swapped_folders_are_found_by_replicas(case, proof):
    swap(case, 0, 2)
    case.refused(ReplicaMismatch, r"parameter layer[13].weight", proof=proof)


def test_swapped_folders_are_found_by_the_manifest(case):
    save_manifest(case.shards, case.strategy)
    swap(case, 0, 2)
    case.refused(CorruptShard, r"it is the file of rank \d: were folders swapped")


def swap(case: Case, a: int, b: int) -> None:
    (case.shards / f"rank_{a}").rename(case.shards / "x")
    (case.shards / f"rank_{b}").rename(case.shards / f"rank_{a}")
    (case.shards / "x").rename(case.shards / f"rank_{b}")


def test_a_swap_that_nothing_can_tell_is_stated(case):
    layouts = {"w": Layout((8,), ((0,), ()))}
    whole = {"w": np.arange(64, dtype=np.float32).reshape(16, 4)}
    shutil.rmtree(case.shards)
    save_shards(case.shards, whole, layouts)
    save_strategy(case.strategy, layouts)
    assert "if their folders were swapped, nothing can tell" in case.merge().notices[0]
    assert json.loads(case.snapshot()["model.ckpt.merge.json"])["swaps_undetectable_among_ranks"] == [list(range(8))]
    save_manifest(case.shards, case.strategy)
    assert case.merge().notices == ()


def test_a_folder_copied_over_another_is_refused(case):
    layouts = {"w": Layout((8,), ((0,), ()))}
    shutil.rmtree(case.shards)
    save_shards(case.shards, {"w": np.arange(64, dtype=np.float32).reshape(16, 4)}, layouts)
    save_strategy(case.strategy, layouts)
    shutil.copy(case.file(1), case.file(6))
    case.refused(
        LayoutError, r"\(rank 1\) and .*\(rank 6\) are equal, but the strategy gives these ranks different slices"
    )


@pytest.mark.parametrize(
    "equal", [np.zeros((16, 4), np.float32), np.tile(np.eye(4, dtype=bool), (4, 1)), np.tile([1.0, 2.0], 8)]
)
def test_slices_that_may_be_equal_by_chance_are_no_copies(case, equal):
    layouts = {"w": Layout((8,), ((0,), *[()] * (equal.ndim - 1)))}
    shutil.rmtree(case.shards)
    save_shards(case.shards, {"w": equal}, layouts)
    save_strategy(case.strategy, layouts)
    assert np.array_equal(read_checkpoint(case.merge().output)["w"], equal)


def test_a_slice_that_only_a_replica_holds_is_taken_and_said(case):
    case.rewrite(2, **{"layer1.weight": None})
    merged = case.merge()
    assert np.array_equal(read_checkpoint(merged.output)["layer1.weight"], tensors()["layer1.weight"])
    (notice,) = merged.notices
    assert notice.startswith("1 tensor, such as layer1.weight, is missing on some ranks")


def test_a_slice_that_no_replica_holds_is_refused(case):
    for rank in (2, 3, 6, 7):
        case.rewrite(rank, **{"layer1.weight": None})
    case.refused(MissingShard, r"parameter layer1.weight: expected a slice on rank 2")


def test_a_missing_folder_is_refused(case):
    shutil.rmtree(case.shards / "rank_7")
    case.refused(MissingShard, r"shards over 8 ranks, there are folders of 7")


def test_a_gap_in_the_folders_is_refused(case):
    shutil.rmtree(case.shards / "rank_3")
    case.refused(MissingShard, r"folders of ranks \[3\] are missing")


def test_a_symbolic_link_out_of_the_folder_is_refused(case):
    case.file(1).rename(case.path / "elsewhere.ckpt")
    case.file(1).symlink_to(case.path / "elsewhere.ckpt")
    case.refused(CorruptShard, "symbolic link that leads out")


def test_a_link_of_a_whole_rank_folder_out_of_the_folder_is_refused(case):
    (case.shards / "rank_1").rename(case.path / "elsewhere")
    (case.shards / "rank_1").symlink_to(case.path / "elsewhere")
    case.refused(CorruptShard, "symbolic link that leads out")


def test_whole_models_taken_for_slices_are_refused(case):
    save_shards(case.shards, tensors(), layouts={})
    case.refused(LayoutError, "did every rank save the whole model")
    merged = read_checkpoint(case.merge(integrated=True).output)
    assert merged["layer1.weight"].shape == (12, 8)


@pytest.mark.parametrize("proof", [True, False])
@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([np.array(rank, np.int32) for rank in range(8)], ReplicaMismatch),
        ([f"state of rank {rank}" for rank in range(8)], ReplicaMismatch),
        (["x" * (rank + 1) for rank in range(8)], LayoutError),
    ],
    ids=["a rank's number", "random states", "of different lengths"],
)
def test_a_value_of_each_ranks_own_is_named_with_what_to_do(case, values, error, proof):
    """As MindSpore's TrainFaultTolerance appends `cur_rank`, and others their random states."""
    for rank, value in enumerate(values):
        case.rewrite(rank, **{"cur_rank[0]": value})
    case.refused(error, r"a value of each rank's own.*leave it out with --exclude 'cur_rank\[\[\]0\]'", proof=proof)
    merged = case.merge(selection=Selection(exclude=("cur_rank[[]0]",)), proof=proof)
    assert "cur_rank[0]" not in read_checkpoint(merged.output)


def test_a_parameter_that_stages_share_tells_their_ranks_apart(tmp_path):
    """Tied embeddings: each rank is compared with one of the other stage, so that no swap goes unseen."""
    shared = {"embed.table": Layout((2,), ((0,), ()))}
    whole = {"embed.table": np.arange(64, dtype=np.float32).reshape(16, 4)}
    paths = tuple(save_strategy(tmp_path / f"{stage}.ckpt", shared, stage=stage) for stage in range(2))
    for rank in range(4):
        (tmp_path / "shards" / f"rank_{rank}").mkdir(parents=True)
        write_checkpoint(slices_of(whole, shared, rank % 2), tmp_path / "shards" / f"rank_{rank}" / "n-1_1.ckpt")
    merged = merge(MergeRequest(tmp_path / "shards", paths, tmp_path / "out" / "model.ckpt"))
    assert merged.notices == ()
    assert merged.record["swaps_undetectable_among_ranks"] == []
    for order in ((1, 0, 2, 3), (0, 1, 3, 2)):
        swapped = tmp_path / f"swapped{order[0]}"
        for rank, found in enumerate(order):
            shutil.copytree(tmp_path / "shards" / f"rank_{found}", swapped / f"rank_{rank}")
        with pytest.raises(ReplicaMismatch, match=r"embed.table"):
            merge(MergeRequest(swapped, paths, tmp_path / "out" / "model.ckpt"))
