import json
import shutil
from typing import Any

import numpy as np
import pytest

from shardline.base.errors import ConfigError, LayoutError, ReplicaMismatch
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.parts import Part, commit_parts, plan_parts, write_part
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.selection import Selection
from tests.shardline.checkpoint.mindformers import FIXTURES, whole_values


def request(folder, tmp_path, **options: Any):
    return MergeRequest(folder, (), tmp_path / "merged" / "model.safetensors", **options)


def assert_whole(path):
    merged = read_checkpoint(path)
    expected = whole_values()
    assert set(merged) == set(expected)
    for name, value in expected.items():
        found = merged[name]
        if name == "embedding.table":
            assert merged.header(name).type.name == "BFloat16"
            found = (found.astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(found, value), name


@pytest.mark.parametrize(
    ("folder", "step", "slices"), [("every_rank", "12", 28), ("balanced", "7", 20), ("two_stages", "3", 20)]
)
def test_what_mindformers_saved_becomes_whole(tmp_path, folder, step, slices):
    merged = merge(request(FIXTURES / folder, tmp_path))
    assert_whole(merged.output)
    assert merged.record["proof"]["slices_compared"] == slices
    assert merged.record["inputs"]["step"] == step
    assert merged.record["inputs"]["common"]["global_step"] == int(step)
    verify(merged.output)
    assert merge(request(FIXTURES / folder, tmp_path)).was_up_to_date


def test_the_record_names_files_and_ranks(tmp_path):
    record = merge(request(FIXTURES / "balanced", tmp_path)).record
    assert record["inputs"]["strategies"] == []
    assert [(file["rank"], file["path"]) for file in record["inputs"]["files"]][3:5] == [
        (3, "run-model-0000003-0000004.safetensors"),
        (0, "run-opt-0000000-0000004.safetensors"),
    ]
    layouts = {tensor["name"]: tensor["layouts"] for tensor in record["tensors"]}
    assert layouts["it's"] == ["device matrix [2, 2], tensor map [[1, 0], -1]"]


def test_changed_metadata_is_another_merge(tmp_path):
    folder = shutil.copytree(FIXTURES / "balanced", tmp_path / "checkpoint")
    merge(request(folder, tmp_path))
    path = folder / "iteration_00000007" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1))
    assert not merge(request(folder, tmp_path)).was_up_to_date


def test_in_parts_it_is_the_same_bytes(tmp_path):
    whole = merge(request(FIXTURES / "every_rank", tmp_path / "whole"))
    in_parts = request(FIXTURES / "every_rank", tmp_path / "parts")
    plan_parts(in_parts)
    for number in (1, 2, 3):
        write_part(in_parts.output, Part(number, 3))
    assert commit_parts(in_parts.output).digest == whole.digest


def test_weights_alone(tmp_path):
    merged = merge(request(FIXTURES / "balanced", tmp_path, selection=Selection(weights_only=True, dtype="float32")))
    assert set(read_checkpoint(merged.output)) == {"decoder.0.weight", "it's", "embedding.table", "scale"}


@pytest.mark.parametrize("options", [{"strategies": True}, {"integrated": True}])
def test_a_strategy_is_refused_not_ignored(tmp_path, options):
    given = request(FIXTURES / "balanced", tmp_path, integrated=options.get("integrated"))
    if "strategies" in options:
        given = MergeRequest(given.shards, (tmp_path / "s.ckpt",), given.output)
    with pytest.raises(ConfigError, match=r"is Checkpoint 2.0 of MindFormers, .*leave --(strategy|integrated)"):
        merge(given)


@pytest.mark.parametrize(("folder", "file"), [
    ("every_rank", "iteration_00000012/run-model-0000003-0000004.safetensors"),
    ("two_stages", "iteration_00000003/model-0000003-0000004.safetensors"),
])  # fmt: skip
@pytest.mark.parametrize("proof", [True, False])
def test_replicas_that_differ_are_refused(tmp_path, folder, file, proof):
    shutil.copytree(FIXTURES / folder, tmp_path / "checkpoint")
    parts = dict(read_checkpoint(tmp_path / "checkpoint" / file))
    parts["embedding.table"] = parts["embedding.table"] + np.uint16(1)
    types = {"embedding.table": read_checkpoint(tmp_path / "checkpoint" / file).header("embedding.table").type}
    write_checkpoint(parts, tmp_path / "checkpoint" / file, types=types)
    with pytest.raises(ReplicaMismatch, match=r"embedding.table.*model-0000003-0000004.safetensors \(rank 3\)"):
        merge(request(tmp_path / "checkpoint", tmp_path, proof=proof))


def test_files_whose_names_were_swapped_are_noticed_or_doubted(tmp_path):
    merged = merge(request(FIXTURES / "balanced", tmp_path))
    assert any("if the names of two were swapped, nothing can tell" in notice for notice in merged.notices)


def test_equal_files_of_ranks_with_different_slices_are_refused(tmp_path):
    folder = shutil.copytree(FIXTURES / "every_rank", tmp_path / "checkpoint")
    files = [folder / f"iteration_00000012/run-opt-000000{rank}-0000004.safetensors" for rank in (1, 2)]
    shutil.copyfile(files[0], files[1])
    with pytest.raises(LayoutError, match=r"\(rank 1\) and .*\(rank 2\) are equal"):
        merge(request(folder, tmp_path))
