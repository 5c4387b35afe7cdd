import json

import pytest

from shardline.base.errors import CorruptShard
from shardline.checkpoint.shards.finding import find_slices
from shardline.checkpoint.shards.training_record import recorded_parameters
from shardline.training.compatibility import decisive, digest_of
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors

NETWORK = {"layer1.weight": (12, 8), "layer1.bias": (6,), "layer3.weight": (8, 5)}


@pytest.fixture
def slices(tmp_path):
    """A shard set whose manifest names the record, without the record."""
    from shardline.settings.run_config import RunConfig

    document = decisive(RunConfig(), NETWORK, "0" * 64)
    save_shards(tmp_path / "shards", tensors())
    save_manifest(tmp_path / "shards", save_strategy(tmp_path / "s.ckpt"))
    manifest = tmp_path / "shards" / "shard_set-20.json"
    digest = digest_of(document)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"configuration_digest": digest}))
    record = tmp_path / "shards" / "provenance" / f"configuration-{digest}"
    record.parent.mkdir()
    return find_slices(tmp_path / "shards", 8), record, document


def test_the_record_that_training_leaves_names_the_networks_parameters(slices):
    found, record, document = slices
    record.write_text(json.dumps(document, indent=1))
    assert recorded_parameters(found) == NETWORK.keys()


def test_without_a_record_nothing_is_known(slices):
    assert recorded_parameters(slices[0]) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"shapes": {}}', "[" * 100_000])
def test_a_record_that_is_not_the_manifests_is_refused(slices, content):
    found, record, _ = slices
    record.write_text(content)
    with pytest.raises(CorruptShard, match="configuration-"):
        recorded_parameters(found)
