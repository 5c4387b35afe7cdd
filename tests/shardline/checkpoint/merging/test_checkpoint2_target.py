import json
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import ConfigError, LayoutError, ReplicaMismatch, UnsupportedFormat
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.formats.tensor_types import BY_NAME
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.mindformers import FIXTURES, whole_values
from tests.shardline.checkpoint.sharding import LAYOUTS, save_manifest, save_shards, save_strategy, slices_of, tensors

FOUR = {
    "decoder.0.weight": Layout((2, 2), ((0,), (), (1,))),
    "it's": Layout((2, 2), ((1, 0), ())),
    "embedding.table": Layout((2, 2), ((0,), ())),
    "adam_m.decoder.0.weight": Layout((2, 2), ((0,), (), (1,))),
    "adam_m.it's": Layout((2, 2), ((1, 0), ())),
}
TWO = {
    "decoder.0.weight": Layout((1, 2), ((0,), (), (1,))),
    "it's": Layout((1, 2), ((1, 0), ())),
    "embedding.table": Layout((1, 2), ((0,), ())),
    "adam_m.decoder.0.weight": Layout((1, 2), ((0,), (), (1,))),
    "adam_m.it's": Layout((1, 2), ((1, 0), ())),
}


def documents(folder: Path) -> dict[str, bytes]:
    """What lies in an iteration's folder beside slices, and in the folder above it."""
    paths = [*folder.glob("iteration_*/*.json"), *folder.glob("*.txt")]
    return {path.name: path.read_bytes() for path in paths}


def files(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.name: dict(read_checkpoint(path)) for path in folder.glob("iteration_*/*.safetensors")}


def assert_same_files(found: Path, expected: Path) -> None:
    ours, theirs = files(found), files(expected)
    assert set(ours) == set(theirs)
    for name, parts in theirs.items():
        assert set(ours[name]) == set(parts), name
        for tensor, part in parts.items():
            assert np.array_equal(ours[name][tensor], part), (name, tensor)


def test_what_is_written_is_what_mindformers_writes(tmp_path):
    """Byte for byte, all documents; the slices by their values, file by file."""
    strategy = save_strategy(tmp_path / "four.ckpt", FOUR)
    reshard(ReshardRequest((strategy,), tmp_path / "to", FIXTURES / "balanced", file_format="checkpoint2", name="run"))
    assert documents(tmp_path / "to") == documents(FIXTURES / "static_graph")
    assert_same_files(tmp_path / "to", FIXTURES / "static_graph")


@pytest.mark.parametrize("source", ["every_rank", "two_stages"])
def test_another_source_of_the_same_tensors_gives_the_same(tmp_path, source):
    strategy = save_strategy(tmp_path / "four.ckpt", FOUR)
    reshard(ReshardRequest((strategy,), tmp_path / "to", FIXTURES / source, file_format="checkpoint2", name="run"))
    metadata = [documents(folder)["metadata.json"] for folder in (tmp_path / "to", FIXTURES / "static_graph")]
    assert json.loads(metadata[0]) == json.loads(metadata[1])
    assert_same_files(tmp_path / "to", FIXTURES / "static_graph")


def test_an_iteration_that_the_source_contradicts_is_refused(tmp_path):
    request = ReshardRequest(
        (), tmp_path / "to", FIXTURES / "balanced", file_format="checkpoint2", unsharded=True, iteration=8
    )
    with pytest.raises(ConfigError, match=r"--iteration 8: .* says that it is of step 7"):
        reshard(request)


def test_pipeline_stages_are_written_as_mindformers_writes_them(tmp_path):
    own = {"decoder.0.weight", "adam_m.decoder.0.weight"}
    stages = [
        {name: layout for name, layout in TWO.items() if name not in own},
        {name: layout for name, layout in TWO.items() if "it's" not in name},
    ]
    paths = tuple(save_strategy(tmp_path / f"{n}.ckpt", layouts, stage=n) for n, layouts in enumerate(stages))
    reshard(ReshardRequest(paths, tmp_path / "to", FIXTURES / "balanced", file_format="checkpoint2"))
    assert documents(tmp_path / "to") == documents(FIXTURES / "static_graph_stages")
    assert_same_files(tmp_path / "to", FIXTURES / "static_graph_stages")


def test_from_a_static_graph_to_checkpoint2_and_back(tmp_path):
    """Eight ranks' folders become Checkpoint 2.0 of four, and again the same eight files, byte for byte."""
    save_shards(tmp_path / "shards", tensors())
    eight = save_strategy(tmp_path / "8.ckpt", LAYOUTS)
    save_manifest(tmp_path / "shards", eight)
    four = save_strategy(
        tmp_path / "4.ckpt",
        {
            "layer1.weight": Layout((2, 2), ((0,), (1,))),
            "layer1.bias": Layout((4,), ((),), optimizer_shard_step=1, optimizer_shard_size=2),
            "layer3.weight": Layout((4,), ((0,), ())),
            "moment1.layer1.weight": Layout((2, 2), ((1, 0), ())),
        },
    )
    reshard(ReshardRequest((four,), tmp_path / "checkpoint", tmp_path / "shards", (eight,), file_format="checkpoint2"))
    assert json.loads((tmp_path / "checkpoint/iteration_00000020/common.json").read_bytes())["global_step"] == 20
    states = files(tmp_path / "checkpoint")["opt-0000000-0000004.safetensors"]
    assert "moment1.layer1.weight" in states
    assert "layer1.weight" not in states
    reshard(ReshardRequest((eight,), tmp_path / "back", tmp_path / "checkpoint", name="checkpoint-1_20"))
    for rank in range(8):
        found = read_checkpoint(tmp_path / "back" / f"rank_{rank}" / "checkpoint-1_20.ckpt")
        for name, part in slices_of(tensors(), LAYOUTS, rank).items():
            assert np.array_equal(found[name], part), (rank, name)


def test_a_step_that_nothing_says_is_asked_for(tmp_path):
    strategy = save_strategy(tmp_path / "8.ckpt", LAYOUTS)
    save_shards(tmp_path / "shards", tensors(), name="checkpoint-3_20.ckpt")
    request = ReshardRequest((strategy,), tmp_path / "to", tmp_path / "shards", (strategy,), file_format="checkpoint2")
    with pytest.raises(ConfigError, match=r"which iteration is it.*epoch 3, step 20 of it"):
        reshard(request)


def test_an_integrated_file_becomes_checkpoint2(tmp_path):
    merged = merge(MergeRequest(FIXTURES / "balanced", (), tmp_path / "m" / "model.safetensors"))
    request = ReshardRequest(
        (), tmp_path / "to", integrated=merged.output, unsharded=True, file_format="checkpoint2", iteration=5
    )
    reshard(request)
    again = merge(MergeRequest(tmp_path / "to", (), tmp_path / "again" / "model.safetensors"))
    assert again.digest == merged.digest
    described = json.loads((tmp_path / "to/iteration_00000005/metadata.json").read_bytes())["state_dict_metadata"]
    assert {tensor["layout"] for tensor in described.values()} == {None}


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout((2, 3), ((), ()), optimizer_shard_step=1, optimizer_shard_size=2), "cannot say how the optimizer cuts"),
        (Layout((2,), ((0,), ()), field=2), "interleaved, which Checkpoint 2.0 cannot say"),
        (Layout((2,), ((0,), ()), param_split_shape=(4, 8)), "uneven, which Checkpoint 2.0 cannot say"),
    ],
)
def test_what_checkpoint2_cannot_say_is_refused(tmp_path, layout, message):
    write_checkpoint({"w": np.zeros((12, 2), dtype=np.float32)}, tmp_path / "w.ckpt")
    strategy = save_strategy(tmp_path / "s.ckpt", {"w": layout})
    request = ReshardRequest(
        (strategy,), tmp_path / "to", integrated=tmp_path / "w.ckpt", file_format="checkpoint2", iteration=1
    )
    with pytest.raises(LayoutError, match=f"parameter w: .*{message}"):
        reshard(request)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["Float8E8M0", "Float4E2M1"])
def test_a_type_that_mindspore_lacks_is_refused(tmp_path, name):
    types = {"w": BY_NAME[name]}
    write_checkpoint({"w": np.zeros(4, dtype=np.uint8)}, tmp_path / "w.safetensors", types=types)
    strategy = save_strategy(tmp_path / "s.ckpt", {"w": Layout((2,), ((0,),))})
    request = ReshardRequest(
        (strategy,), tmp_path / "to", integrated=tmp_path / "w.safetensors", file_format="checkpoint2", iteration=1
    )
    with pytest.raises(UnsupportedFormat, match=f"'w' is of the type {name}"):
        reshard(request)
    assert not (tmp_path / "to").exists()


def test_stages_that_cut_a_shared_parameter_differently_are_refused(tmp_path):
    write_checkpoint({"w": np.zeros((4, 4), dtype=np.float32)}, tmp_path / "w.ckpt")
    maps = (((0,), ()), ((), (0,)))
    paths = [save_strategy(tmp_path / f"{n}.ckpt", {"w": Layout((2,), map_)}, stage=n) for n, map_ in enumerate(maps)]
    request = ReshardRequest(
        tuple(paths), tmp_path / "to", integrated=tmp_path / "w.ckpt", file_format="checkpoint2", iteration=1
    )
    with pytest.raises(LayoutError, match="parameter w: pipeline stages share it, but cut it as"):
        reshard(request)


def test_replicas_that_differ_are_refused(tmp_path):
    save_shards(tmp_path / "shards", tensors())
    eight = save_strategy(tmp_path / "8.ckpt", LAYOUTS)
    file = tmp_path / "shards/rank_3/checkpoint-1_20.ckpt"
    parts = dict(read_checkpoint(file))
    parts["layer1.bias"] = parts["layer1.bias"] + 1
    write_checkpoint(parts, file)
    with pytest.raises(ReplicaMismatch, match=r"layer1.bias.*rank 3"):
        reshard(ReshardRequest((eight,), tmp_path / "to", tmp_path / "shards", (eight,), file_format="checkpoint2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["8.ckpt", "shards"]


def test_options_that_clash_are_refused(tmp_path):
    given = {"unsharded": True, "file_format": "checkpoint2", "iteration": 1}
    for changed, message in (
        ({"ranks": (0,)}, "--ranks: Checkpoint 2.0 is one checkpoint of all ranks"),
        ({"file_format": "ckpt"}, "--iteration is of --format checkpoint2"),
        ({"strategies": (tmp_path / "s.ckpt",)}, "--strategy, --step and --prefix are of --shards"),
    ):
        request = ReshardRequest((), tmp_path / "to", integrated=tmp_path / "w.ckpt", **{**given, **changed})
        with pytest.raises(ConfigError, match=message):
            reshard(request)


def test_fixtures_hold_the_same_values(tmp_path):
    merged = merge(MergeRequest(FIXTURES / "static_graph_stages", (), tmp_path / "m" / "model.ckpt"))
    assert np.array_equal(read_checkpoint(merged.output)["it's"], whole_values()["it's"])
