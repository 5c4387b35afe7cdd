"""A version becomes a folder, whole or not at all, with a record that says what was proved."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError, ExportError, OutputError, PromotionError
from shardline.base.progress import Meter
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, read_integrated, write_checkpoint
from shardline.checkpoint.formats.safetensors_file import index_safetensors
from shardline.export import export as module
from shardline.export.export import ExportRequest, export
from shardline.export.mapping import NameMapping, Rule

ALL_BUT_THE_HEAD = ("[!h]*",)
HEAD = NameMapping(
    name="/somewhere/head.toml",
    rules=(Rule(sources=("head.weight",), targets=("lm_head.weight",), transpose=True),),
    leave_out=ALL_BUT_THE_HEAD,
    digest="ab",
)


def run(home, version, output, environment=None, **given: Any):
    request = ExportRequest(model="gpt", version=version, output=output, **given)
    return export(request, home, environment or {}, Meter())


def test_the_record_says_of_what_by_what_and_what_was_proved(home, version, tmp_path):
    record = run(home, version, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export.json").read_bytes()) == record
    assert record["source"] == {
        "model": "gpt",
        "version": 1,
        "run": "run",
        "step": 39,
        "file": "model.ckpt",
        "digest": file_digest(version.model_file),
    }
    assert (record["tensors"], record["bytes"]) == (29, 4 * 15040)
    assert set(record["left_out"]) == {
        name
        for name in read_checkpoint(version.model_file)
        if name.startswith("moment") or name in ("beta1_power", "beta2_power", "global_step", "learning_rate")
    }
    assert sorted(record["files"]) == ["config.json", "model.safetensors"]
    for name, digest in record["files"].items():
        assert file_digest(tmp_path / "out" / name) == digest
    assert record["proof"]["logits"] is None
    assert record["proof"]["said"].startswith("proved by bytes alone: transformers and torch are not installed here")
    assert index_safetensors(tmp_path / "out" / "model.safetensors").metadata == {"format": "pt"}


def test_the_same_version_gives_the_same_bytes(home, version, tmp_path):
    run(home, version, tmp_path / "a")
    run(home, version, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_weights_that_do_not_fit_into_one_file_have_an_index(home, version, tmp_path):
    run(home, version, tmp_path / "one")
    record = run(home, version, tmp_path / "out", max_file_size=20_000)
    whole = load_file(tmp_path / "one" / "model.safetensors")
    names = [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    assert sorted(record["files"]) == ["config.json", *names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_bytes())
    assert index["metadata"]["total_size"] == record["bytes"]
    assert sorted(index["weight_map"]) == sorted(whole)
    for name, file in index["weight_map"].items():
        assert np.array_equal(load_file(tmp_path / "out" / file)[name], whole[name])
    assert set(read_integrated(tmp_path / "out")) == set(whole)


def test_by_a_mapping_file_it_is_proved_by_bytes_alone_and_says_so(home, version, tmp_path):
    record = run(home, version, tmp_path / "out", mapping=HEAD)
    assert sorted(record["files"]) == ["model.safetensors"]
    assert record["mapping"] == {"name": "head.toml", "digest": "ab"}
    assert record["proof"]["said"] == (
        "proved by bytes alone: what the architecture of a mapping file computes is not known here"
    )
    with pytest.raises(ExportError, match="the logits cannot be compared: what the architecture"):
        run(home, version, tmp_path / "other", mapping=HEAD, must_compare=True)
    assert not (tmp_path / "other").exists()


def test_an_output_that_is_there_stays_as_it_is(home, version, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputError, match="out is there already, and not empty"):
        run(home, version, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    run(home, version, tmp_path / "out", replaces=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "export.json",
        "model.safetensors",
    ]


def test_nothing_is_left_of_an_export_that_fails(home, version, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "prove_file", broken)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=r"cannot be written: .*Input/output error"):
        run(home, version, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_version_that_was_changed_is_refused(home, version, tmp_path):
    content = bytearray(version.model_file.read_bytes())
    content[-1] ^= 1
    version.model_file.write_bytes(content)
    with pytest.raises(PromotionError, match="it was changed after its promotion"):
        run(home, version, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ({"network": "mlp"}, (ConfigError, "version 1 is of the network mlp, which no mapping comes with")),
        ({"network": "mine.py:spec"}, (ConfigError, "version 1 is of the network mine.py:spec")),
        ({"training": {}}, (ConfigError, "version 1 is of a training of your own, which no mapping comes with")),
        ([], (ExportError, "config.json: expected the parameters of a run")),
    ],
)
def test_what_has_no_mapping_needs_a_file(home, version, tmp_path, config, refusal):
    (version.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(refusal[0], match=refusal[1]):
        run(home, version, tmp_path / "out")


def test_a_type_that_safetensors_lacks_is_refused_by_name(home, version, tmp_path):
    text = NameMapping(name="m", rules=(Rule(sources=("head.weight",), targets=("h",)),), leave_out=ALL_BUT_THE_HEAD)
    write_checkpoint({"head.weight": "a text"}, version.model_file)
    with pytest.raises(ConfigError, match=r"'h' has the type str, which .safetensors cannot hold; add it to leave_out"):
        run(home, version, tmp_path / "out", mapping=text)
