"""`shardline models show`: which data and which code made a version, long after its run is gone."""

import json
import shutil

import pytest
from blake3 import blake3

from benchmarks.run_page.synthetic_run import Size, write_run
from shardline.base.digest import file_digest
from shardline.base.exit_codes import FAILED
from shardline.cli import models_command
from shardline.page.results import read_versions
from shardline.run.directory import Home, RunDirectory
from shardline.run.identity import write_identity
from shardline.run.tracking import facts_of
from shardline.store.promotion import promote

RUN = {"SHARDLINE_DAG_ID": "sharded_training", "SHARDLINE_RUN_ID": "manual__2026-11-26T03:00:00+00:00"}
CODE = {
    "format": 1,
    "code": [
        {
            "shardline": {"version": "0.2.0", "commit": "a" * 40, "changed": False},
            "program": {"folder": "/home/ada/training", "commit": "b" * 40, "changed": True},
        }
    ],
}
DATA = {"digest": "d" * 64, "source": "mnist", "directory": "/shared/data/mnist-1", "train": {"count": 60000}}


@pytest.fixture(scope="module")
def promoted(tmp_path_factory) -> RunDirectory:
    """A run of 700 steps, merged, validated and promoted twice: version 2 is current."""
    home = Home(tmp_path_factory.mktemp("home"))
    for number in (1, 2):
        name = f"{RUN['SHARDLINE_RUN_ID']}{number}"
        size = Size(steps=700, parameters=number)
        run = write_run(home.run(RUN["SHARDLINE_DAG_ID"], name), size, model_name="digits")
        write_identity(run.path, RUN | {"SHARDLINE_RUN_ID": name})
        run.code_file.write_text(json.dumps(CODE))
        run.dataset_file.write_text(json.dumps(DATA))
        promote(run, home)
    return run


@pytest.fixture
def home(promoted, tmp_path, monkeypatch) -> Home:
    """A copy of the store, whose runs are gone."""
    shutil.copytree(promoted.path.parents[2] / "models", tmp_path / "models", symlinks=True)
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    return Home(tmp_path)


def shown(capsys, *words: str) -> dict:
    assert models_command.main(["show", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_version_names_its_data_its_code_and_every_digest_on_the_way(home, promoted, capsys):
    manifest, strategy = promoted.checkpoints / "shard_set-700.json", promoted.path / "src_strategy.ckpt"
    merged = promoted.merged / "model.ckpt"
    found = shown(capsys, "digits")
    assert (found["model"], found["version"], found["is_current"]) == ("digits", 2, True)
    assert found["digest"] == file_digest(merged)
    assert found["lineage"] == {
        "format": 1,
        "run": {
            "folder": str(promoted.path.relative_to(promoted.path.parents[2])),
            "dag_id": RUN["SHARDLINE_DAG_ID"],
            "run_id": f"{RUN['SHARDLINE_RUN_ID']}2",
        },
        "data": {name: DATA[name] for name in ("digest", "source", "directory")},
        "start": None,
        "shard_set": {"step": 700, "epoch": 1, "world_size": 8, "digest": blake3(manifest.read_bytes()).hexdigest()},
        "strategies": [blake3(strategy.read_bytes()).hexdigest()],
        "merged": {"file": "model.ckpt", "digest": file_digest(merged), "size": merged.stat().st_size},
        "code": CODE["code"],
    }
    assert found["parameters"] == json.loads(promoted.config_file.read_bytes())
    assert found["metrics"]["accuracy"] == found["value"]


def test_the_text_says_the_same(home, capsys):
    found = shown(capsys, "digits", "current")
    assert models_command.main(["show", "digits"]) == 0
    text = capsys.readouterr().out
    lineage = found["lineage"]
    digests = [found["digest"], lineage["data"]["digest"], lineage["shard_set"]["digest"], *lineage["strategies"]]
    assert all(digest in text for digest in digests)
    assert f"commit {'a' * 40}, without changes" in text
    assert f"/home/ada/training, commit {'b' * 40}, with changes" in text
    assert f"{RUN['SHARDLINE_DAG_ID']} {RUN['SHARDLINE_RUN_ID']}2" in text
    assert "digits, version 2, which is current" in text
    assert "\n  batch_size " in text


def test_mlflow_is_told_the_same_digests_and_commits(home, promoted, capsys):
    lineage = shown(capsys, "digits")["lineage"]
    tags = facts_of(promoted, Home(promoted.path.parents[2]), None).tags
    assert {name: tags[f"shardline.{name}_digest"] for name in ("dataset", "shard_set", "strategy", "merged")} == {
        "dataset": lineage["data"]["digest"],
        "shard_set": lineage["shard_set"]["digest"],
        "strategy": lineage["strategies"][0],
        "merged": lineage["merged"]["digest"],
    }
    assert tags["shardline.commit"] == "a" * 40
    assert tags["shardline.program_commit"] == f"{'b' * 40}+changes"
    assert tags["mlflow.source.git.commit"] == "b" * 40


def test_the_page_shows_the_same_lineage_to_whoever_may_see_the_run(home, promoted, capsys):
    lineage = shown(capsys, "digits")["lineage"]
    seen = read_versions(home, "digits", promoted, lambda folder: folder == RUN["SHARDLINE_DAG_ID"])["versions"]
    assert seen[0]["lineage"] == lineage
    hidden = read_versions(home, "digits", promoted, lambda _: False)["versions"]
    assert [version["lineage"] for version in hidden] == [None, None]


@pytest.mark.parametrize(
    ("words", "version"),
    [(["digits", "1"], 1), (["digits", "champion"], 2), (["--model", "digits", "1"], 1), (["--model", "digits"], 2)],
)
def test_model_and_version_are_chosen_by_words(home, capsys, words, version):
    assert shown(capsys, *words)["version"] == version


def test_a_single_word_that_is_a_version_is_one_of_the_usual_model(home, capsys):
    (home.models / "digits").rename(home.models / "mnist-mlp")
    assert shown(capsys, "1")["version"] == 1
    assert shown(capsys)["version"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "3"], "no version 3; there are 1, 2"),
        (["letters"], "nothing was promoted yet: there is no current version"),
        (["digits", "newest"], "expected the number of a version, current or champion, found 'newest'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(home, capsys, words, message):
    assert models_command.main(["show", *words]) == FAILED
    assert message in capsys.readouterr().err


def test_a_document_that_was_changed_after_its_promotion_is_not_believed(home, capsys):
    file = home.models / "digits" / "versions" / "2" / "lineage.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace("b" * 40, "c" * 40))
    assert models_command.main(["show", "digits"]) == FAILED
    assert "lineage.json: expected the digest" in capsys.readouterr().err
    assert shown(capsys, "digits", "1")["version"] == 1


def test_of_what_an_earlier_shardline_promoted_the_record_of_the_merge_tells_a_part(home, promoted, capsys):
    folder = home.models / "digits" / "versions" / "2"
    description = json.loads((folder / "version.json").read_bytes())
    del description["files"]["lineage.json"]
    (folder / "lineage.json").unlink()
    (folder / "version.json").chmod(0o644)
    (folder / "version.json").write_text(json.dumps(description))
    found = shown(capsys, "digits")
    assert found["lineage"]["strategies"] == [file_digest(promoted.path / "src_strategy.ckpt")]
    assert found["lineage"]["code"] == []
    assert models_command.main(["show", "digits"]) == 0
    text = capsys.readouterr().out
    assert text.count("not recorded") == 3  # data, the shard set's digest, code


def test_too_many_words_are_no_command(home, capsys):
    with pytest.raises(SystemExit):
        models_command.main(["show", "digits", "1", "2"])
    assert "at most a model and a version" in capsys.readouterr().err
