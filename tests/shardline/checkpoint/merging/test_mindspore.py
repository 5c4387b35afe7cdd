"""What MindSpore has saved in slices merges to what MindSpore makes of it, and MindSpore loads it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.train.callback._checkpoint import _chg_ckpt_file_name_if_same_exist
from safetensors.numpy import load_file, save_file

from shardline.base.errors import CorruptShard, LayoutError
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.shards.finding import locate_slices
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.saved_by_mindspore import saved_by_mindspore
from tests.shardline.checkpoint.sharding import LAYOUTS, SHAPES, save_shards, save_strategy, slices_of, tensors

GENERATOR = np.random.default_rng(7)


class Network(nn.Cell):
    """A network whose parameters have the names and shapes of the shard sets that the tests make."""

    def __init__(self) -> None:
        super().__init__()
        for number, name in enumerate(name for name in SHAPES if not name.startswith("moment1")):
            parameter = Parameter(Tensor(np.zeros(SHAPES[name], np.float32)), name=name)
            self.insert_param_to_cell(f"parameter{number}", parameter)


@pytest.mark.parametrize("rows", [(6, 6), (2, 10), (8, 4)])
@pytest.mark.parametrize(
    ("field", "split", "offsets"),
    [(0, (), ()), (1, (), ()), (3, (), ()), (6, (), ()), (0, "rows", ()), (0, "rows", "starts")],
)
def test_rows_cut_by_hand_or_interleaved_are_merged_as_by_merge_sliced_parameter(tmp_path, rows, field, split, offsets):
    if not split and rows != (6, 6):
        pytest.skip("parts of different heights are cut by hand")
    layout = Layout((2,), ((0,), ()), field=field)
    layout = replace(layout, param_split_shape=rows if split else (), indices_offset=(0, rows[0]) if offsets else ())
    strategy = save_strategy(tmp_path / "s.ckpt", {"w": layout})
    slices = np.split(np.arange(24, dtype=np.float32).reshape(12, 2), [rows[0]])
    for rank, part in enumerate(slices):
        (tmp_path / f"shards/rank_{rank}").mkdir(parents=True)
        saved_by_mindspore(tmp_path / f"shards/rank_{rank}/net-1_1.ckpt", {"w": part})
    theirs = mindspore.merge_sliced_parameter(
        [Parameter(Tensor(part), name="w") for part in slices], mindspore.build_searched_strategy(str(strategy))
    )
    ours = merge(MergeRequest(tmp_path / "shards", (strategy,), tmp_path / "out" / "m.ckpt"))
    assert np.array_equal(read_checkpoint(ours.output)["w"], theirs.asnumpy())


SCALARS = {
    "three": np.array(3, dtype=np.int32),
    "zero": np.array(0, dtype=np.int64),
    "eight": np.array(8, dtype=np.uint8),
    "many": np.array(3_000_000, dtype=np.int64),
    "float": np.array(3, dtype=np.float32),
    "bool": np.array(True),
    "one": np.array([3], dtype=np.int32),
    "square": np.array([[3]], dtype=np.int16),
    "half": np.arange(4, dtype=np.float16),
    "flags": np.array([True]),
}


@pytest.mark.parametrize("name", [*SCALARS, "all"])
def test_mindspores_checksum_of_safetensors_is_ours(tmp_path, name):
    arrays = SCALARS if name == "all" else {name: SCALARS[name]}
    (tmp_path / "shards/rank_0").mkdir(parents=True)
    file = tmp_path / "shards/rank_0/net-1_1.safetensors"
    saved_by_mindspore(file, arrays, format="safetensors", crc_check=True)
    assert mindspore.load_checkpoint(str(file), format="safetensors", crc_check=True)
    merged = merge(MergeRequest(tmp_path / "shards", (), tmp_path / "out" / "m.safetensors", integrated=True))
    assert all(np.array_equal(read_checkpoint(merged.output)[key], array) for key, array in arrays.items())


@pytest.mark.parametrize("name", ["three", "half"])
def test_damage_is_found_by_mindspores_checksum_of_safetensors(tmp_path, name):
    (tmp_path / "shards/rank_0").mkdir(parents=True)
    file = tmp_path / "shards/rank_0/net-1_1.safetensors"
    content = bytearray(saved_by_mindspore(file, {name: SCALARS[name]}, format="safetensors", crc_check=True))
    content[-1 if name == "half" else -SCALARS[name].nbytes] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(CorruptShard, match="its own checksum"):
        merge(MergeRequest(tmp_path / "shards", (), tmp_path / "out" / "m.safetensors", integrated=True))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Slices saved by MindSpore itself, their strategy, and what MindSpore's own merge makes of them."""
    directory = tmp_path_factory.mktemp("shards")
    for rank in range(8):
        (directory / "src" / f"rank_{rank}").mkdir(parents=True)
        arrays = slices_of(tensors(), LAYOUTS, rank)
        saved_by_mindspore(directory / "src" / f"rank_{rank}" / "checkpoint-1_20.ckpt", arrays)
        (directory / "src" / f"rank_{rank}" / "checkpoint-graph.meta").write_bytes(b"a graph")
    save_strategy(directory / "strategy.ckpt")
    mindspore.transform_checkpoints(
        str(directory / "src"), str(directory / "dst"), "merged", str(directory / "strategy.ckpt")
    )
    return directory


def merged(shards: Path, output: Path, **options: object) -> Path:
    return merge(MergeRequest(shards / "src", (shards / "strategy.ckpt",), output, **options)).output


def test_mindspores_slices_merge_to_what_its_own_merge_gives(shards, tmp_path):
    ours = read_checkpoint(merged(shards, tmp_path / "model.ckpt"))
    theirs = read_checkpoint(next((shards / "dst" / "rank_0").glob("*.ckpt")))
    assert set(ours) == set(theirs) == set(tensors())
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_mindspore_loads_the_merged_checkpoint_strictly(shards, tmp_path, name):
    output = merged(shards, tmp_path / name, selection=Selection(weights_only=True))
    network = Network()
    loaded = mindspore.load_checkpoint(str(output), format=output.suffix[1:])
    not_loaded, missing = mindspore.load_param_into_net(network, loaded, strict_load=True)
    assert (not_loaded, missing) == ([], [])
    for parameter in network.get_parameters():
        assert np.array_equal(parameter.asnumpy(), tensors()[parameter.name])


def test_the_merged_ckpt_is_what_mindspore_would_save(shards, tmp_path):
    output = merged(shards, tmp_path / "model.ckpt")
    assert output.read_bytes() == saved_by_mindspore(tmp_path / "theirs.ckpt", tensors())


def test_mindspore_accepts_our_checksum(shards, tmp_path):
    output = merged(shards, tmp_path / "model.ckpt", crc=True)
    assert output.read_bytes() == saved_by_mindspore(tmp_path / "theirs.ckpt", tensors(), crc_check=True)
    assert set(mindspore.load_checkpoint(str(output), crc_check=True)) == set(tensors())


def test_the_merged_safetensors_is_what_its_library_would_save(shards, tmp_path):
    output = merged(shards, tmp_path / "model.safetensors")
    save_file(tensors(), tmp_path / "theirs.safetensors", metadata={"format": "ms"})
    assert output.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_several_files_load_by_their_index(shards, tmp_path):
    output = merged(shards, tmp_path / "model.safetensors", max_file_size=500)
    index = weight_map(output)
    assert len(set(index.values())) == 3
    loaded = {name: load_file(tmp_path / file)[name] for name, file in index.items()}
    assert all(np.array_equal(loaded[name], array) for name, array in tensors().items())


def test_several_files_are_what_mindspore_distributes(shards, tmp_path):
    """`load_distributed_checkpoint` reads them by the map beside the index, and gives each rank its slices."""
    output = merged(shards, tmp_path / "out" / "model.safetensors", max_file_size=500)
    strategy = save_strategy(tmp_path / "strategy.ckpt")
    for rank in (0, 5):
        mindspore.load_distributed_checkpoint(
            network=None,
            predict_strategy=str(strategy),
            format="safetensors",
            unified_safetensors_dir=str(output.parent),
            dst_safetensors_dir=str(tmp_path / "loaded"),
            rank_id=rank,
        )
        found = load_file(tmp_path / "loaded" / f"rank_{rank}" / "net.safetensors")
        expected = slices_of({name: tensors()[name] for name in LAYOUTS}, LAYOUTS, rank)
        assert set(found) == set(expected)
        assert all(np.array_equal(found[name], array) for name, array in expected.items())


def test_a_restart_is_numbered_as_mindspore_numbers_it(tmp_path):
    """Its ModelCheckpoint asks this for a prefix each time that a training starts; ours takes the last."""
    for days, prefix in ((3, "CKP"), (2, "CKP"), (1, "CKP")):
        for rank in range(2):
            folder = tmp_path / f"rank_{rank}"
            folder.mkdir(exist_ok=True)
            numbered = _chg_ckpt_file_name_if_same_exist(str(folder), prefix)
            saved_by_mindspore(folder / f"{numbered}-{days}_1.ckpt", {"w": np.zeros(2, np.float32)})
            os.utime(folder / f"{numbered}-{days}_1.ckpt", (1.7e9 - days * 86_400,) * 2)
    found = locate_slices(tmp_path, 2)
    assert [path.name for path in found.files] == ["CKP_2-1_1.ckpt"] * 2


def test_a_model_that_mindspore_unified_is_cut_as_its_slices_were(shards, tmp_path):
    """`unified_safetensors` with the map, its parts and what it puts aside into hyper_param.safetensors."""
    source, unified = tmp_path / "source", tmp_path / "unified"
    unified.mkdir()
    layouts = {name: layout for name, layout in LAYOUTS.items() if name.startswith("layer")}
    whole = {name: tensors()[name] for name in layouts} | {"global_step": np.array([20], np.int32)}
    for rank in range(8):
        (source / f"rank_{rank}").mkdir(parents=True)
        path = source / f"rank_{rank}" / "x-1_20.safetensors"
        saved_by_mindspore(path, slices_of(whole, layouts, rank), format="safetensors")
    strategy = save_strategy(tmp_path / "strategy.ckpt", layouts)
    mindspore.unified_safetensors(str(source), str(strategy), str(unified))
    assert {"param_name_map.json", "part0.safetensors", "hyper_param.safetensors"} <= {
        p.name for p in unified.iterdir()
    }
    reshard(ReshardRequest((strategy,), tmp_path / "cut", integrated=unified, file_format="safetensors"))
    for rank in range(8):
        found = read_checkpoint(tmp_path / "cut" / f"rank_{rank}" / "checkpoint.safetensors")
        expected = slices_of(whole, layouts, rank)
        assert set(found) == set(expected)
        assert all(np.array_equal(found[name], array) for name, array in expected.items())


def weight_map(output: Path) -> dict[str, str]:
    return json.loads(output.with_name(f"{output.name}.index.json").read_bytes())["weight_map"]


def test_slices_without_redundancy_are_found_where_they_are(tmp_path):
    whole = tensors()
    for rank in range(8):
        kept = {
            name: array
            for name, array in slices_of(whole, LAYOUTS, rank).items()
            if rank == 5 or (name in LAYOUTS and any(rank == group[-1] for group in LAYOUTS[name].replica_groups()))
        }
        (tmp_path / "src" / f"rank_{rank}").mkdir(parents=True)
        file = tmp_path / "src" / f"rank_{rank}" / "net-1_1.safetensors"
        saved_by_mindspore(file, kept, format="safetensors", remove_redundancy=True)
    save_strategy(tmp_path / "strategy.ckpt")
    found = read_checkpoint(merged(tmp_path, tmp_path / "model.ckpt"))
    assert all(np.array_equal(found[name], array) for name, array in whole.items())


def test_optimizer_sharding_merges_to_what_mindspores_merge_gives(tmp_path):
    layouts = {
        "whole": Layout((8,), ((), ()), optimizer_shard_step=1, optimizer_shard_size=-1),
        "split": Layout((2, 4), ((0,), ()), optimizer_shard_step=4, optimizer_shard_size=2),
        "lists": Layout((2, 2, 2), ((1, 0), ())),
    }
    whole = {name: np.arange(16 * 3, dtype=np.float32).reshape(16, 3) + n for n, name in enumerate(layouts)}
    save_shards(tmp_path / "src", whole, layouts)
    save_strategy(tmp_path / "strategy.ckpt", layouts)
    mindspore.transform_checkpoints(
        str(tmp_path / "src"), str(tmp_path / "dst"), "merged", str(tmp_path / "strategy.ckpt")
    )
    ours = read_checkpoint(merged(tmp_path, tmp_path / "model.ckpt"))
    theirs = read_checkpoint(next((tmp_path / "dst" / "rank_0").glob("*.ckpt")))
    for name, array in whole.items():
        assert np.array_equal(ours[name], array)
        assert np.array_equal(theirs[name], array)


def test_pipeline_stages_come_from_files_of_their_own_or_from_one_that_mindspore_merged(tmp_path):
    layouts = [
        {"up.weight": Layout((2, 2), ((), (0,))), "up-1.bias": Layout((4,), ((),))},
        {"down.weight": Layout((2, 2), ((0,), ())), "down.bias": Layout((2, 2), ((1,),))},
    ]
    whole = {"up.weight": (4, 6), "up-1.bias": (6,), "down.weight": (6, 4), "down.bias": (4,)}
    arrays = {name: GENERATOR.standard_normal(shape).astype(np.float32) for name, shape in whole.items()}
    (tmp_path / "strategies").mkdir()
    files = []
    for stage, declared in enumerate(layouts):
        files.append(save_strategy(tmp_path / "strategies" / f"stage{stage}.ckpt", declared, stage=stage))
        for rank in range(4):
            (tmp_path / "src" / f"rank_{stage * 4 + rank}").mkdir(parents=True)
            kept = slices_of({name: arrays[name] for name in declared}, declared, rank)
            saved_by_mindspore(tmp_path / "src" / f"rank_{stage * 4 + rank}" / "net-1_1.ckpt", kept)
    merged_names = tmp_path / "merged_names.ckpt"
    mindspore.merge_pipeline_strategys(str(tmp_path / "strategies"), str(merged_names))
    for number, strategies in enumerate([tuple(files), tuple(reversed(files)), (merged_names,)]):
        request = MergeRequest(tmp_path / "src", strategies, tmp_path / f"out{number}" / "model.ckpt")
        found = read_checkpoint(merge(request).output)
        assert list(found) == list(whole)
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    with pytest.raises(LayoutError, match="give the strategy of the run that saved them, all of its stages"):
        merge(MergeRequest(tmp_path / "src", (files[0],), tmp_path / "out" / "model.ckpt"))


def test_resharding_gives_the_slices_that_mindspore_gives(shards, tmp_path):
    layouts = {
        "layer1.weight": Layout((2, 2), ((0,), (1,))),
        "layer1.bias": Layout((4,), ((),), optimizer_shard_step=1, optimizer_shard_size=2),
        "layer3.weight": Layout((4,), ((0,), ())),
        "moment1.layer1.weight": Layout((2, 2), ((1, 0), ())),
    }
    target = save_strategy(tmp_path / "target.ckpt", layouts)
    request = ReshardRequest((target,), tmp_path / "ours", shards / "src", (shards / "strategy.ckpt",))
    reshard(request)
    mindspore.transform_checkpoints(
        str(shards / "src"), str(tmp_path / "theirs"), "slice", str(shards / "strategy.ckpt"), str(target)
    )
    for rank in range(4):
        ours = read_checkpoint(tmp_path / "ours" / f"rank_{rank}" / "checkpoint-1_20.ckpt")
        theirs = read_checkpoint(tmp_path / "theirs" / f"rank_{rank}" / f"slice{rank}.ckpt")
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
