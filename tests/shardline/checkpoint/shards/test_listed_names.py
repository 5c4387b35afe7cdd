import json

import pytest

from shardline.base.errors import CheckpointError, ConfigError
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.listed_names import listed_names
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.sharding import LAYOUTS, save_strategy, tensors

NAMES = ("layer1.weight", "layer1.bias", "layer3.weight")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "# the network's\nlayer1.weight\r\n\n  layer1.bias\nlayer3.weight"),
        ("names", "\nlayer1.weight\nlayer1.bias\nlayer3.weight\nlayer1.weight\n"),
        ("names.json", json.dumps(NAMES)),
        ("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": dict.fromkeys(NAMES, "x")})),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_and_indexes_name_parameters(tmp_path, name, content, mark):
    (tmp_path / name).write_text(mark + content, encoding="utf-8")
    assert listed_names([tmp_path / name]) == NAMES


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_a_checkpoint_names_all_that_it_holds(tmp_path, name):
    whole = {name: array for name, array in tensors().items() if name in NAMES}
    write_checkpoint(whole, tmp_path / name)
    assert sorted(listed_names([tmp_path / name])) == sorted(NAMES)


@pytest.mark.parametrize("name", ["strategy.ckpt", "strategy.json", "strategy"])
def test_a_strategy_names_what_is_no_state_of_an_optimizer(tmp_path, name):
    assert "moment1.layer1.weight" in LAYOUTS
    assert sorted(listed_names([save_strategy(tmp_path / name)])) == sorted(NAMES)


def test_strategies_of_several_stages_are_one_list(tmp_path):
    stages = [{"a.weight": Layout((2,), ((0,),))}, {"b.weight": Layout((2,), ((0,),))}]
    files = [save_strategy(tmp_path / f"{n}.ckpt", layouts, stage=n) for n, layouts in enumerate(stages)]
    assert listed_names(files) == ("a.weight", "b.weight")
    assert listed_names([tmp_path]) == ("a.weight", "b.weight")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ConfigError, "expected the names of parameters, found none"),
        (b"# nothing\n", ConfigError, "found none"),
        (b"{}", ConfigError, "expected a JSON list of names"),
        (b"[1, 2]", ConfigError, "expected a JSON list of names"),
        (b'["a"', CheckpointError, "begins like JSON"),
        (b"[" * 100_000, CheckpointError, "begins like JSON"),
        (b"\x0a\x05\x00\x01\x02", CheckpointError, "names"),
        (b"\x89PNG\x00", CheckpointError, "names"),
    ],
)
def test_what_lists_nothing_is_refused(tmp_path, content, error, message):
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(error, match=message):
        listed_names([tmp_path / "names"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.txt: the list of names cannot be read"):
        listed_names([tmp_path / "absent.txt"])
