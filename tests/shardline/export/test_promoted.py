"""The version that a run promoted, exported where its parameters ask for that."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from shardline.base.errors import ConfigError, PromotionError
from shardline.export.promoted import export_promoted, mapping_of
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig


@pytest.fixture
def run(home, version):
    """The run that promoted, as its last task but one left it."""
    found = RunDirectory(home.path / "run")
    config = json.loads((version.path / "config.json").read_bytes()) | {"hugging_face_export": "built-in"}
    found.write_config(RunConfig.from_json(json.dumps(config)))
    found.promotion_file.write_text(json.dumps({"path": str(version.path), "digest": version.digest}))
    return found


def ask_for(run, named):
    run.write_config(run.read_config().model_copy(update={"hugging_face_export": named}))


def test_it_lies_beside_the_versions_and_done_again_it_is_the_same(run, home, version):
    result = export_promoted(run, home, {})
    output = Path(result["output"])
    assert output == home.models / "gpt" / "exports" / "1"
    assert (result["version"], result["digest"]) == (1, version.digest)
    assert result["proof"].startswith("proved by bytes alone: ")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert export_promoted(run, home, {}) == result
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_a_mapping_file_below_the_allowed_folders_is_taken(run, home):
    mapping = home.path / "m.toml"
    mapping.write_text('leave_out = ["[!h]*"]\n[[tensors]]\nfrom = "head.weight"\nto = "w"\n')
    ask_for(run, str(mapping))
    result = export_promoted(run, home, {})
    assert list(load_file(Path(result["output"]) / "model.safetensors")) == ["w"]


def test_a_mapping_elsewhere_is_not_read(run, home, tmp_path):
    (tmp_path / "m.toml").write_text("secret")
    ask_for(run, str(tmp_path / "m.toml"))
    with pytest.raises(ConfigError, match="hugging_face_export: expected a path below"):
        mapping_of(run.read_config(), home, {})
    with pytest.raises(ConfigError, match=r"m.toml:1: this is no TOML"):
        mapping_of(run.read_config(), home, {"SHARDLINE_ALLOWED_ROOTS": str(tmp_path)})


@pytest.mark.parametrize("named", [None, "built-in"])
def test_without_a_file_there_is_nothing_to_read(run, home, named):
    ask_for(run, named)
    assert mapping_of(run.read_config(), home, {}) is None


def test_a_store_that_was_changed_since_is_refused(run, home):
    run.promotion_file.write_text(json.dumps(json.loads(run.promotion_file.read_bytes()) | {"digest": "0"}))
    with pytest.raises(PromotionError, match="the model store was changed since; clear promote"):
        export_promoted(run, home, {})
    run.promotion_file.write_text("{}")
    with pytest.raises(PromotionError, match="expected what promote writes"):
        export_promoted(run, home, {})
