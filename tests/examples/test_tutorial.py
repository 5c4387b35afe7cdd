"""The tutorial's own program, on the CPU and one rank, from its description to a promoted version."""

import struct

import numpy as np
from mindspore import load_checkpoint

from shardline.checkpoint.shards.shard_set import ShardSet


def mnist(folder, samples: int):
    """MNIST's two training files, of random digits."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (samples, 28, 28), np.uint8)
    labels = generator.integers(0, 10, samples, np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, samples, 28, 28) + images.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, samples) + labels.tobytes())


def test_the_tutorials_program_becomes_a_promoted_version(example, tmp_path):
    mnist(tmp_path / "mnist", 96)
    described = example("tutorial.toml")
    described.prepare(data=str(tmp_path / "mnist"), epochs=3, steps_per_epoch=3, merged_format="ckpt")
    trained = described.train()
    assert trained.result["step"] == 9
    newest = ShardSet.newest(described.run.checkpoints)
    assert (newest.integrated, newest.epoch, newest.slices[0].path) == (True, 3, "rank_0/checkpoint-3_3.ckpt")
    described.merge_to_promote()
    merged = load_checkpoint(str(described.run.merged / "model.ckpt"))
    own = load_checkpoint(str(described.run.checkpoints / newest.slices[0].path))
    assert merged.keys() == own.keys()
    for name, parameter in own.items():
        np.testing.assert_array_equal(merged[name].asnumpy(), parameter.asnumpy())
