"""Resuming says what must be equal, for every parameter of a run."""

import json

import pytest

from shardline.base.errors import ConfigError, CorruptShard
from shardline.settings.run_config import RunConfig
from shardline.training.compatibility import DECIDES_THE_WEIGHTS, MAY_CHANGE, check_compatible, decisive, digest_of

SHAPES = {"layer1.weight": (784, 512)}


@pytest.fixture
def recorded(tmp_path):
    file = tmp_path / "configuration"
    file.write_text(json.dumps(decisive(RunConfig(), SHAPES, "d" * 64)))
    return file


def test_every_parameter_either_decides_the_weights_or_may_change():
    groups = [DECIDES_THE_WEIGHTS, *MAY_CHANGE.values()]
    assert sorted(name for group in groups for name in group) == sorted(RunConfig.model_fields), (
        "a new parameter belongs into shardline.training.compatibility: does it decide the weights of a step?"
    )


@pytest.mark.parametrize(
    "change", [{"world_size": 4}, {"epochs": 9}, {"checkpoint_format": "safetensors"}, {"keep_checkpoint_max": 1}]
)
def test_what_may_change_is_not_compared(recorded, change):
    ours = decisive(RunConfig(**change), SHAPES, "d" * 64)
    check_compatible(ours, recorded, "shard set 5", "remedy")
    assert digest_of(ours) == digest_of(json.loads(recorded.read_text()))


def test_a_cosine_schedule_binds_the_number_of_epochs_whose_end_it_reaches(tmp_path):
    file = tmp_path / "configuration"
    file.write_text(json.dumps(decisive(RunConfig(schedule="cosine", epochs=5), SHAPES, "d" * 64)))
    with pytest.raises(ConfigError, match="epochs: expected 5, found 6"):
        check_compatible(decisive(RunConfig(schedule="cosine", epochs=6), SHAPES, "d" * 64), file, "set", "remedy")


def test_everything_that_differs_is_named_at_once(recorded):
    ours = decisive(RunConfig(seed=2, optimizer="SGD"), {"layer1.weight": (784, 256), "new": (1,)}, "e" * 64)
    with pytest.raises(ConfigError) as caught:
        check_compatible(ours, recorded, "shard set 5", "remedy")
    assert str(caught.value).splitlines() == [
        "shard set 5 was saved by another training:",
        '  optimizer: expected "Adam", found "SGD"',
        "  seed: expected 1, found 2",
        "  layer1.weight: expected [784, 512], found [784, 256]",
        "  new: expected nothing, found [1]",
        f"  data set: expected the digest {'d' * 64}, found {'e' * 64}",
        "remedy",
    ]
    assert digest_of(ours) != digest_of(json.loads(recorded.read_text()))


def test_a_record_that_is_missing_or_damaged_is_named(recorded, tmp_path):
    ours = decisive(RunConfig(), SHAPES, "d" * 64)
    recorded.write_text("{")
    for file in (recorded, tmp_path / "nothing"):
        with pytest.raises(CorruptShard, match=f"{file.name}: it should say what shard set 5 was trained with"):
            check_compatible(ours, file, "shard set 5", "remedy")
