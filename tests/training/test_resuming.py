"""Which shard sets a run goes on from, and which it refuses."""

import dataclasses

import mindspore
import numpy as np
import pytest
from mindspore import nn

from tasks.checkpoint.checkpoint_file import write_checkpoint
from tasks.checkpoint.shard_set import ShardSet
from tasks.config import RunConfig
from tasks.errors import ConfigError, CorruptShard, LayoutError
from tasks.networks import network_of
from tasks.networks.cells import build
from tasks.parallel.backend import SingleDevice
from tasks.training.resuming import resume, warm_start
from tasks.training.saving import Identity, Saver
from tasks.training.steps import train_step

CONFIG = RunConfig(world_size=1, batch_size=2, keep_checkpoint_max=2)
IDENTITY = Identity("s" * 64, "c" * 64)


@pytest.fixture
def backend():
    backend = SingleDevice(CONFIG, 0, network_of(CONFIG))
    backend.start()
    return backend


def new_cell(backend, seed=1) -> nn.TrainOneStepCell:
    return train_step(build(network_of(CONFIG), CONFIG.batch_size, backend, seed), CONFIG)


def saver(folder, backend, cell) -> Saver:
    return Saver(folder, CONFIG, backend, cell, IDENTITY)


def values(cell) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def test_without_a_shard_set_training_starts_at_the_beginning(tmp_path, backend):
    assert resume(tmp_path / "nothing", new_cell(backend), backend, IDENTITY) == 0
    assert resume(tmp_path, new_cell(backend), backend, IDENTITY) == 0


def test_the_numerically_newest_set_is_loaded_with_all_states(tmp_path, backend):
    cell, later = new_cell(backend, seed=1), new_cell(backend, seed=2)
    images, labels = mindspore.ops.ones((2, 1, 28, 28)), mindspore.Tensor([1, 2], mindspore.int32)
    saver(tmp_path, backend, cell).save(9, epoch=1, step_in_epoch=9)
    later(images, labels)
    saver(tmp_path, backend, later).save(10, epoch=1, step_in_epoch=10)
    restored = new_cell(backend, seed=3)
    assert resume(tmp_path, restored, backend, IDENTITY) == 10
    expected = values(later)
    assert np.abs(expected["moment1.layer1.weight"]).max() > 0
    for name, value in values(restored).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world_size": 2}, "was saved by 1 ranks, found 2"),
        ({"strategy": "x" * 64}, "other operator strategies"),
        ({"configuration": "x" * 64}, "another network, batch_size"),
    ],
)
def test_a_set_of_another_run_is_refused(tmp_path, backend, change, message):
    saver(tmp_path, backend, new_cell(backend)).save(5, epoch=1, step_in_epoch=5)
    identity = Identity(change.get("strategy", "s" * 64), change.get("configuration", "c" * 64))
    backend.world_size = change.get("world_size", 1)
    with pytest.raises(ConfigError, match=message):
        resume(tmp_path, new_cell(backend), backend, identity)


def test_a_slice_that_changed_since_is_refused(tmp_path, backend):
    saver(tmp_path, backend, new_cell(backend)).save(5, epoch=1, step_in_epoch=5)
    file = tmp_path / "rank_0" / "checkpoint-1_5.ckpt"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(CorruptShard, match=r"checkpoint-1_5\.ckpt \(rank 0\)"):
        resume(tmp_path, new_cell(backend), backend, IDENTITY)


def test_a_set_of_another_optimizer_is_refused(tmp_path, backend):
    saver(tmp_path, backend, new_cell(backend)).save(5, epoch=1, step_in_epoch=5)
    config = CONFIG.model_copy(update={"optimizer": "Momentum"})
    cell = train_step(build(network_of(CONFIG), 2, backend, 1), config)
    with pytest.raises(LayoutError, match=r"lacks .*moments\.layer1\.weight.* has .*moment1\.layer1\.weight"):
        resume(tmp_path, cell, backend, IDENTITY)


def test_a_warm_start_takes_the_weights_and_nothing_else(tmp_path, backend):
    source, cell = new_cell(backend, seed=5), new_cell(backend, seed=1)
    saved = values(source) | {"moment1.layer1.weight": np.ones((784, 512), np.float32)}
    write_checkpoint(saved, tmp_path / "model.safetensors")
    warm_start(tmp_path / "model.safetensors", cell.network, backend)
    found = values(cell)
    np.testing.assert_array_equal(found["layer1.weight"], saved["layer1.weight"])
    assert np.abs(found["moment1.layer1.weight"]).max() == 0


def test_a_warm_start_from_another_network_is_refused(tmp_path, backend):
    cell = new_cell(backend)
    saved = values(cell) | {"layer3.bias": np.zeros(11, np.float32)}
    write_checkpoint(saved, tmp_path / "model.ckpt")
    with pytest.raises(LayoutError, match=r"layer3\.bias is float32 \[11\], expected float32 \[10\]"):
        warm_start(tmp_path / "model.ckpt", cell.network, backend)


def test_too_old_sets_go_and_incomplete_ones_are_discarded(tmp_path, backend):
    cell = new_cell(backend)
    saving = saver(tmp_path, backend, cell)
    for step in (5, 10, 15):
        saving.save(step, epoch=1, step_in_epoch=step)
    assert ShardSet.steps(tmp_path) == [10, 15]
    folder = tmp_path / "rank_0"
    (folder / "checkpoint-1_20.ckpt").write_bytes(b"half")
    saver(tmp_path, backend, cell).discard_incomplete()
    assert sorted(file.name for file in folder.iterdir()) == ["checkpoint-1_10.ckpt", "checkpoint-1_15.ckpt"]
    ShardSet.read(ShardSet.path(tmp_path, 15)).verify(tmp_path)


def test_a_set_names_what_made_it(tmp_path, backend):
    saver(tmp_path, backend, new_cell(backend)).save(7, epoch=2, step_in_epoch=3)
    found = ShardSet.newest(tmp_path)
    assert found is not None
    assert dataclasses.asdict(found) | {"slices": None} == {
        "world_size": 1,
        "step": 7,
        "epoch": 2,
        "strategy_digest": "s" * 64,
        "configuration_digest": "c" * 64,
        "integrated": False,
        "slices": None,
    }
    assert [item.path for item in found.slices] == ["rank_0/checkpoint-2_3.ckpt"]
