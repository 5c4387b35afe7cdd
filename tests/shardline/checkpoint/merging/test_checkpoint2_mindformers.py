"""What MindFormers' own code makes of the Checkpoint 2.0 that we write. Skipped where it isn't installed."""

from pathlib import Path

import numpy as np
import pytest

from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint import mindformers
from tests.shardline.checkpoint.sharding import SHAPES, save_shards, save_strategy, tensors

pytestmark = pytest.mark.skipif(not mindformers.is_there(), reason="MindFormers isn't installed")

EIGHT = {
    "layer1.weight": Layout((2, 2, 2), ((2, 0), (1,))),
    "layer1.bias": Layout((8,), ((),), optimizer_shard_step=1, optimizer_shard_size=2),
    "layer3.weight": Layout((4, 2), ((), ()), optimizer_shard_step=1, optimizer_shard_size=-1),
    "moment1.layer1.weight": Layout((2, 4), ((1,), (0,))),
}
READERS = {
    "layer1.weight": ((2, 2), ("tp", "dp")),
    "layer1.bias": ((2, 2), ("None",)),
    "layer3.weight": ((2, 2), (("dp", "tp"), "None")),
    "moment1.layer1.weight": ((2, 2), ("dp", "None")),
}


@pytest.fixture
def written(tmp_path):
    """What eight ranks saved, as Checkpoint 2.0."""
    layouts = {name: Layout((8,), ((),) * len(shape)) for name, shape in SHAPES.items()}
    save_shards(tmp_path / "shards", tensors(), layouts)
    source = save_strategy(tmp_path / "source.ckpt", layouts)
    target = save_strategy(tmp_path / "target.ckpt", EIGHT)
    request = ReshardRequest(
        (target,), tmp_path / "checkpoint", tmp_path / "shards", (source,), file_format="checkpoint2"
    )
    return reshard(request).output


def test_its_check_of_a_checkpoint_passes(written):
    utils = mindformers.checkpoint_module("utils")
    assert utils.get_latest_iteration_from_tracker(str(written)) == 20
    assert utils.verify_ckpt_valid(str(written / "iteration_00000020")) is None
    common = mindformers.checkpoint_module("checkpoint").CommonInfo.load_common(
        str(written / "iteration_00000020" / "common.json")
    )
    assert (common.epoch_num, common.step_num, common.global_step) == (1, 20, 20)


def test_its_metadata_reader_numbers_slices_as_we_do(written):
    metas, storage = mindformers.checkpoint_module("metadata").load_metadata(
        str(written / "iteration_00000020" / "metadata.json")
    )
    sharded = mindformers.checkpoint_module("sharded_tensor")
    for name, layout in EIGHT.items():
        read = metas[name][0]
        fragments, local, offsets, replicas = sharded._get_layout_shard_info(name, read.layout, SHAPES[name])
        assert fragments == layout.shards()
        assert local == layout.slice_shape(SHAPES[name])
        assert tuple(np.ravel_multi_index(tuple(layout.slice_indices().T), layout.shards())) == offsets
        assert replicas == tuple(read.replica_id)
        assert {meta.global_offset for meta in metas[name]} == {(number,) for number in offsets}
        for number in set(offsets):
            (entry,) = storage[str((name, (number,)))]
            assert entry["rank_group"] == [rank for rank in range(8) if offsets[rank] == number]


@pytest.mark.parametrize("rank", range(4))
def test_its_loader_gives_each_of_four_ranks_its_slices(written, rank):
    from mindspore.parallel import Layout as MindSporeLayout

    folder = written / "iteration_00000020"
    reader = mindformers.checkpoint_module("reshard")
    reader.get_real_rank = lambda: rank
    reader.is_hf_checkpoint = lambda path: False
    sharded, metadata = (mindformers.checkpoint_module(name) for name in ("sharded_tensor", "metadata"))
    sources, storage = metadata.load_metadata(str(folder / "metadata.json"))
    layouts = {name: MindSporeLayout(matrix, ("dp", "tp"))(*map_) for name, (matrix, map_) in READERS.items()}
    whole = tensors()
    infos = {name: [layouts.get(name), sources[name][0].dtype, array.shape] for name, array in whole.items()}
    wanted = sharded.get_sharded_tensor_from_strategy_metadata(infos, rank)
    loaded = reader.ReshardLoader(str(folder), wanted, sources, storage).load()
    assert set(loaded) == set(whole)
    for name, array in whole.items():
        expected = array
        if name in READERS:
            ours = {
                "layer1.weight": Layout((2, 2), ((0,), (1,))),
                "layer1.bias": Layout((2, 2), ((),)),
                "layer3.weight": Layout((2, 2), ((1, 0), ())),
                "moment1.layer1.weight": Layout((2, 2), ((1,), ())),
            }[name]
            expected = array[ours.slice_of(rank, array.shape)]
        assert np.array_equal(loaded[name].asnumpy().reshape(expected.shape), expected), name


def test_the_fixtures_are_what_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(mindformers, "FIXTURES", tmp_path)
    mindformers.main()
    committed = Path(__file__).parents[3] / "fixtures" / "checkpoint2"
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) > 40
    for path in written:
        assert (tmp_path / path).read_bytes() == (committed / path).read_bytes(), path
