import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.base.digest import file_digest
from shardline.base.errors import CheckpointError, CorruptShard, MissingShard, ReplicaMismatch
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import joined_stages, read_strategy, write_strategy
from shardline.parallel.single_device import SingleDevice
from shardline.recipes.lookup import network_of
from shardline.run.directory import RunDirectory
from shardline.run.slices_to_merge import merge_run
from shardline.settings.run_config import RunConfig
from shardline.training.resharding import open_set
from tests.shardline.checkpoint.sharding import LAYOUTS, save_manifest, save_shards, save_strategy, slices_of, tensors
from tests.shardline.parallel.stages import GPT_IN_STAGES

PROJECT = Path(__file__).parents[2]
FIXTURES = PROJECT / "tests" / "fixtures" / "strategy"


@pytest.fixture
def run(tmp_path):
    """A run directory as training leaves it: one complete shard set, at step 20."""
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {})
    return directory


def save_run(directory: RunDirectory, parameters: dict, seed: int = 0) -> None:
    config = RunConfig(**parameters)
    directory.path.mkdir(exist_ok=True)
    directory.write_config(config)
    strategy = save_strategy(directory.strategy_file(config))
    save_shards(directory.checkpoints, tensors(seed))
    save_manifest(directory.checkpoints, strategy)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else {}


def test_the_newest_shard_set_becomes_one_checkpoint(run):
    result = merge_run(run)
    merged = read_checkpoint(Path(result["merged_file"]))
    assert list(merged) == list(tensors())
    assert all(np.array_equal(merged[name], array) for name, array in tensors().items())
    assert result == {
        "merged_file": str(run.path / "merged" / "model.ckpt"),
        "digest": file_digest(run.merged / "model.ckpt"),
        "step": 20,
        "epoch": 1,
        "run_directory": str(run.path),
    }


def test_a_set_of_other_ranks_than_the_newest_is_merged_by_its_own_strategy(run):
    earlier = ShardSet.read(ShardSet.path(run.checkpoints, 20)).strategy_digest
    run.strategy_saved_with(earlier).parent.mkdir()
    run.strategy_saved_with(earlier).write_bytes(run.strategy_file(run.read_config()).read_bytes())
    save_strategy(run.strategy_file(run.read_config()), {"layer1.weight": Layout((4,), ((0,), ()))})
    merged = read_checkpoint(Path(merge_run(run)["merged_file"]))
    assert all(np.array_equal(merged[name], array) for name, array in tensors().items())


STAGES = [FIXTURES / f"gpt_2_stages_optimizer_sharded_stage{stage}.ckpt" for stage in (0, 1)]


def save_run_in_stages(directory: RunDirectory) -> dict[str, np.ndarray]:
    """A run of the transformer in two stages, whose strategy files MindSpore's compiler wrote; its whole tensors."""
    config, generator = RunConfig(**GPT_IN_STAGES), np.random.default_rng(0)
    strategies = [read_strategy(file) for file in STAGES]
    shapes = network_of(config).parameters()
    states = {f"{state}.{name}": shape for state in ("moment1", "moment2") for name, shape in shapes.items()}
    whole = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in (shapes | states).items()}
    directory.path.mkdir()
    directory.write_config(config)
    for rank in range(8):
        known = strategies[rank // 4].layouts
        slices = slices_of({name: each for name, each in whole.items() if name in known}, known, rank % 4)
        file = directory.checkpoints / f"rank_{rank}" / "checkpoint-1_20.ckpt"
        file.parent.mkdir(parents=True)
        write_checkpoint(slices | {"global_step": np.array([20], np.int32)}, file)
    write_strategy(joined_stages(strategies), directory.strategy_file(config))
    digest = save_manifest(directory.checkpoints, directory.strategy_file(config)).strategy_digest
    directory.strategy_saved_with(digest).parent.mkdir()
    directory.strategy_file(config).rename(directory.strategy_saved_with(digest))
    return whole


def test_pipeline_stages_are_merged_by_the_strategies_that_mindspores_compiler_wrote(tmp_path):
    whole = save_run_in_stages(run := RunDirectory(tmp_path / "run"))
    merged = read_checkpoint(Path(merge_run(run)["merged_file"]))
    assert set(merged) == {*whole, "global_step"}
    assert all(np.array_equal(merged[name], array) for name, array in whole.items())
    record = json.loads((run.merge_file).read_bytes())
    assert record["proof"]["tensors"] == len(whole) + 1
    assert record["proof"]["slices_compared"] == 4 * len(whole) + 8, "each stage's four ranks, and all for the step"


def test_pipeline_stages_are_merged_by_hand_with_a_strategy_file_each(tmp_path):
    whole = save_run_in_stages(run := RunDirectory(tmp_path / "run"))
    ShardSet.path(run.checkpoints, 20).unlink()
    merged = read_checkpoint(merge(MergeRequest(run.checkpoints, tuple(STAGES), tmp_path / "model.ckpt")).output)
    assert all(np.array_equal(merged[name], array) for name, array in whole.items())


def test_training_goes_on_from_pipeline_stages_with_one_and_from_one_with_stages(tmp_path):
    whole = save_run_in_stages(run := RunDirectory(tmp_path / "run"))
    shard_set = ShardSet.read(ShardSet.path(run.checkpoints, 20))
    saved = open_set(run.checkpoints, shard_set, run.strategy_saved_with(shard_set.strategy_digest))
    in_stages, at_once = RunConfig(**GPT_IN_STAGES), RunConfig(**(GPT_IN_STAGES | {"pipeline_stages": 1}))
    for config in (in_stages, at_once):
        for rank in range(8):
            backend = SingleDevice(config, rank, network_of(config))
            found = dict(
                saved.slices_of(backend.rank_in_stage, backend.layouts, holds=backend.holds, own_file=backend.rank)
            )
            assert set(found) == {*backend.layouts, "global_step"}
            for name, layout in backend.layouts.items():
                part = whole[name][layout.slice_of(backend.rank_in_stage, whole[name].shape)]
                np.testing.assert_array_equal(found[name], part, err_msg=f"{name} on rank {rank}")
    assert SingleDevice(in_stages, 3, network_of(in_stages)).output_rank == 4
    assert SingleDevice(at_once, 3, network_of(at_once)).output_rank == 0


def test_the_record_says_what_was_merged_and_what_was_compared(run):
    merge_run(run)
    record = json.loads((run.merge_file).read_bytes())
    assert record["output"][0]["digest"] == file_digest(run.merged / "model.ckpt")
    assert [file["rank"] for file in record["inputs"]["files"]] == list(range(8))
    assert record["inputs"]["files"][3]["digest"] == file_digest(run.checkpoints / "rank_3" / "checkpoint-1_20.ckpt")
    assert record["proof"]["slices_compared"] == 8 * len(tensors())
    weight = record["tensors"][0]
    assert (weight["name"], weight["shape"], weight["type"]) == ("layer1.weight", [12, 8], "Float32")


def test_merging_again_from_nothing_gives_the_same_bytes(run):
    merge_run(run)
    first = snapshot(run.merged)
    for path in run.merged.iterdir():
        path.unlink()
    merge_run(run)
    assert snapshot(run.merged) == first


def test_merging_again_writes_nothing(run):
    merge_run(run)
    before = {path.name: path.stat().st_ino for path in run.merged.iterdir()}
    merge_run(run)
    assert {path.name: path.stat().st_ino for path in run.merged.iterdir()} == before


def test_a_damaged_output_is_merged_again(run):
    merge_run(run)
    first = snapshot(run.merged)
    content = bytearray(first["model.ckpt"])
    content[-1] ^= 1
    (run.merged / "model.ckpt").write_bytes(content)
    merge_run(run)
    assert snapshot(run.merged) == first


def test_merged_as_safetensors(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {"merged_format": "safetensors"})
    merged = read_checkpoint(Path(merge_run(directory)["merged_file"]))
    assert all(np.array_equal(merged[name], array) for name, array in tensors().items())


@pytest.mark.parametrize("states_in_strategy", [False, True])
def test_a_strategy_of_trainable_parameters_merges_the_weights_alone(tmp_path, states_in_strategy):
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {"strategy_only_trainable_params": True})
    weights = {name: layout for name, layout in LAYOUTS.items() if not name.startswith("moment1")}
    layouts = LAYOUTS if states_in_strategy else weights
    save_manifest(directory.checkpoints, save_strategy(directory.path / "src_strategy.ckpt", layouts))
    assert list(read_checkpoint(Path(merge_run(directory)["merged_file"]))) == list(weights)


def test_integrated_files_are_compared_and_rank_0s_is_published(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {"integrated_save": True, "merged_format": "safetensors"})
    strategy = directory.path / "src_strategy.ckpt"
    save_shards(directory.checkpoints, tensors(), layouts={})
    save_manifest(directory.checkpoints, strategy, integrated=True)
    merged = read_checkpoint(Path(merge_run(directory)["merged_file"]))
    assert {name: array.shape for name, array in merged.items()} == {n: a.shape for n, a in tensors().items()}


def test_integrated_files_that_differ_are_refused(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {"integrated_save": True})
    save_shards(directory.checkpoints, tensors(), layouts={})
    save_shards(directory.checkpoints / "x", tensors(seed=1), layouts={})
    (directory.checkpoints / "x" / "rank_5" / "checkpoint-1_20.ckpt").replace(
        directory.checkpoints / "rank_5" / "checkpoint-1_20.ckpt"
    )
    save_manifest(directory.checkpoints, directory.path / "src_strategy.ckpt", integrated=True)
    with pytest.raises(ReplicaMismatch, match="rank 5"):
        merge_run(directory)


def test_an_integrated_file_that_lacks_a_tensor_is_refused(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {"integrated_save": True})
    save_shards(directory.checkpoints, tensors(), layouts={})
    fewer = {name: array for name, array in tensors().items() if name != "layer1.bias"}
    write_checkpoint(fewer, directory.checkpoints / "rank_5" / "checkpoint-1_20.ckpt")
    save_manifest(directory.checkpoints, directory.path / "src_strategy.ckpt", integrated=True)
    with pytest.raises(MissingShard, match=r"\(rank 5\): expected the whole model.*such as layer1.bias"):
        merge_run(directory)


def test_the_configured_step_is_taken(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    save_run(directory, {"checkpoint_step": 20})
    save_shards(directory.checkpoints, tensors(seed=1), name="checkpoint-2_20.ckpt")
    save_manifest(directory.checkpoints, directory.path / "src_strategy.ckpt", step=40, epoch=2)
    result = merge_run(directory)
    assert (result["step"], result["epoch"]) == (20, 1)
    assert np.array_equal(read_checkpoint(Path(result["merged_file"]))["layer1.bias"], tensors()["layer1.bias"])


def test_a_new_shard_set_replaces_the_merged_file(run):
    merge_run(run)
    save_shards(run.checkpoints, tensors(seed=1), name="checkpoint-2_20.ckpt")
    save_manifest(run.checkpoints, run.path / "src_strategy.ckpt", step=40, epoch=2)
    result = merge_run(run)
    assert (result["step"], result["epoch"]) == (40, 2)
    assert np.array_equal(read_checkpoint(Path(result["merged_file"]))["layer1.bias"], tensors(1)["layer1.bias"])


def test_another_format_replaces_the_merged_file(run):
    merge_run(run)
    run.write_config(RunConfig(merged_format="safetensors"))
    merge_run(run)
    assert sorted(snapshot(run.merged)) == ["model.safetensors", "model.safetensors.merge.json"]


def test_slices_without_a_manifest_are_not_a_checkpoint_of_a_run(run):
    (run.checkpoints / "shard_set-20.json").unlink()
    with pytest.raises(MissingShard, match="expected a complete shard set"):
        merge_run(run)


def test_a_failure_leaves_the_old_output_and_nothing_else(run):
    merge_run(run)
    before = snapshot(run.merged)
    file = run.checkpoints / "rank_6" / "checkpoint-1_20.ckpt"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptShard, match=r"rank_6.*\(rank 6\)"):
        merge_run(run)
    assert snapshot(run.merged) == before


def test_a_strategy_of_another_run_is_refused(run):
    save_strategy(run.path / "src_strategy.ckpt", {name: LAYOUTS[name] for name in list(LAYOUTS)[:3]})
    with pytest.raises(CheckpointError, match="give the strategy file of that run"):
        merge_run(run)


def test_the_task_prints_its_result_as_the_last_line(run):
    command = [sys.executable, "-m", "tasks.merge", "--run-directory", str(run.path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["digest"] == file_digest(run.merged / "model.ckpt")


def test_the_task_fails_with_one_message(run):
    (run.checkpoints / "rank_2" / "checkpoint-1_20.ckpt").unlink()
    command = [sys.executable, "-m", "tasks.merge", "--run-directory", str(run.path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("MissingShard: ")
    assert "rank 2" in done.stderr
    assert "Traceback" not in done.stderr
