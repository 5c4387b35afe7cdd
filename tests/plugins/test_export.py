"""The task that exports: skipped where nobody asked, else the version lies beside the others."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from plugins.export import ExportIfAsked
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig

RECORDED = Path(__file__).parents[1] / "fixtures" / "gpt_home"
RUN = ("sharded_training", "manual__1")


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDirectory:
    """A run that has promoted the only version in the store."""
    home = Home(tmp_path / "home")
    shutil.copytree(RECORDED, home.path, symlinks=True)
    monkeypatch.setenv("SHARDLINE_HOME", str(home.path))
    run, version = RunDirectory(home.run(*RUN)), home.models / "gpt" / "versions" / "1"
    run.path.mkdir(parents=True)
    digest = json.loads((version / "version.json").read_bytes())["digest"]
    run.promotion_file.write_text(json.dumps({"path": str(version), "digest": digest}))
    return run


def execute(run: RunDirectory, named: str | None) -> dict:
    run.write_config(RunConfig(network="gpt", model_name="gpt", hugging_face_export=named))
    operator = ExportIfAsked(task_id="export")
    operator.env = dict(zip(("SHARDLINE_DAG_ID", "SHARDLINE_RUN_ID"), RUN, strict=True))  # as Airflow has rendered it
    return operator.execute({"dag": SimpleNamespace(dag_id=RUN[0]), "run_id": RUN[1], "ti": None})


def test_it_is_skipped_where_nobody_asked(run):
    with pytest.raises(AirflowSkipException, match="hugging_face_export is empty: nothing is exported"):
        execute(run, None)


def test_the_promoted_version_is_exported(run):
    result = execute(run, "built-in")
    folder = run.path.parents[2] / "models" / "gpt" / "exports" / "1"
    assert result["output"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "export.json", "model.safetensors"]


def test_a_mapping_that_does_not_fit_fails_at_once(run):
    mapping = run.path / "m.toml"
    mapping.write_text('[[tensors]]\nfrom = "other"\nto = "w"\n')
    with pytest.raises(AirflowFailException, match="not tried again"):
        execute(run, str(mapping))
