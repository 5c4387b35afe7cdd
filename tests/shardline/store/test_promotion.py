from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path

import pytest

from shardline.base.digest import file_digest
from shardline.base.errors import AlreadyAVersion, ChampionStays, PromotionError, RunDirectoryError
from shardline.checkpoint.merging.record_file import RECORD_FORMAT
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig
from shardline.store import model_store
from shardline.store.model_store import ModelStore, current
from shardline.store.promotion import promote
from shardline.store.signature import check_signature
from shardline.store.signing_key import signing_key
from tests.patience import PATIENCE_S
from tests.shardline.store.keys import pair


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def validated_run(home: Home, run_id: str, weights: bytes = b"weights") -> RunDirectory:
    """A run directory as validate leaves it, as far as promote looks."""
    run = RunDirectory(home.run("sharded_training", run_id))
    run.merged.mkdir(parents=True)
    run.validation.mkdir()
    run.write_config(RunConfig(model_name="digits"))
    rewrite_model(run, weights)
    write_report(run)
    return run


def rewrite_model(run: RunDirectory, weights: bytes) -> None:
    model = run.merged / "model.ckpt"
    model.write_bytes(weights)
    record = {
        "format": RECORD_FORMAT,
        "output": [{"name": model.name, "size": len(weights), "digest": file_digest(model)}],
        "inputs": {"step": "700", "manifest": True},
        "options": {},
        "tensors": [],
    }
    run.merge_file.write_text(json.dumps(record))


def write_report(run: RunDirectory, **changes: object) -> None:
    report = {
        "passed": True,
        "failures": [],
        "metric": "accuracy",
        "accuracy": 0.938,
        "merged": {"digest": json.loads(run.merge_file.read_bytes())["output"][0]["digest"]},
    }
    run.report_file.write_text(json.dumps(report | changes))


def test_a_validated_model_becomes_the_current_version(home: Home):
    run = validated_run(home, "1")
    digest = file_digest(run.merged / "model.ckpt")
    result = promote(run, home)
    folder = home.models / "digits" / "versions" / "1"
    assert result == {
        "model": "digits",
        "version": 1,
        "new": True,
        "digest": digest,
        "metric": "accuracy",
        "accuracy": 0.938,
        "path": str(folder),
    }
    assert json.loads(run.promotion_file.read_bytes()) == result
    assert (folder / "model.ckpt").read_bytes() == b"weights"
    for name, file in (
        ("report.json", run.report_file),
        ("merge.json", run.merge_file),
        ("config.json", run.config_file),
    ):
        assert json.loads((folder / name).read_bytes()) == json.loads(file.read_bytes())
    version = current(home, "digits")
    assert version is not None
    assert (version.version, version.run, version.step) == (1, "runs/sharded_training/1", 700)
    version.verify()


def test_a_version_is_signed_where_there_is_a_key_and_stays_as_it_was_promoted(home: Home, tmp_path_factory, capsys):
    private, public = pair(tmp_path_factory.mktemp("keys"))
    key = signing_key(home, {"SHARDLINE_SIGNING_KEY": str(private)})
    first, second = validated_run(home, "1"), validated_run(home, "2", b"others")
    promote(first, home)
    promote(first, home, key)
    assert "it was promoted before, and is not signed with this key: " in capsys.readouterr().out
    assert not (home.models / "digits" / "versions" / "1" / "model.sig").exists()
    for _ in range(2):
        promote(second, home, key)
        assert f"it is signed (public key: SHA-256 {file_sha256(public)})" in capsys.readouterr().out
    assert check_signature(home.models / "digits" / "current", public) == "digits/2"
    other, _ = pair(tmp_path_factory.mktemp("others"), name="other")
    promote(second, home, signing_key(home, {"SHARDLINE_SIGNING_KEY": str(other)}))
    assert f"and signed with another key ({file_sha256(public)})" in capsys.readouterr().out


def file_sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_language_model_s_version_has_its_perplexity(home: Home):
    run = validated_run(home, "1")
    write_report(run, metric="perplexity", perplexity=7.5)
    result = promote(run, home)
    assert (result["metric"], result["perplexity"]) == ("perplexity", 7.5)
    assert "accuracy" not in result
    version = current(home, "digits")
    assert version is not None
    assert (version.metric, version.value) == ("perplexity", 7.5)


def challenge(home: Home, value: float, margin: float | None, **changes: object) -> RunDirectory:
    """A validated run with `value` as its accuracy, compared with the current version of accuracy 0.938."""
    champion = current(home, "digits")
    run = validated_run(home, f"challenger {value}", weights=f"challenger {value}".encode())
    run.write_config(RunConfig(model_name="digits", champion_margin=margin))
    judged = {"version": champion.version, "digest": champion.digest, "value": 0.938} if champion else None
    write_report(run, **{"accuracy": value, "higher_is_better": True, "champion": judged} | changes)
    return run


@pytest.mark.parametrize(
    ("value", "margin", "changes"),
    [
        (0.938, 0.0, {}),
        (0.95, 0.0, {}),
        (0.93, 0.01, {}),
        (0.5, None, {}),
        (0.93, 0.0, {"higher_is_better": False}),
    ],
)
def test_a_challenger_that_is_not_worse_by_the_margin_becomes_current(home: Home, value, margin, changes):
    promote(validated_run(home, "champion"), home)
    assert promote(challenge(home, value, margin, **changes), home)["version"] == 2


@pytest.mark.parametrize(
    ("value", "margin", "changes", "message"),
    [
        (0.93, 0.0, {}, r"accuracy at most 0 worse than the 0\.9380 of version 1.* found 0\.9300: that one stays"),
        (0.92, 0.01, {}, r"at most 0\.01 worse"),
        (0.95, 0.0, {"higher_is_better": False}, "that one stays"),
    ],
)
def test_a_worse_challenger_leaves_the_champion_current(home: Home, value, margin, changes, message):
    promote(validated_run(home, "champion"), home)
    run = challenge(home, value, margin, **changes)
    with pytest.raises(ChampionStays, match=message):
        promote(run, home)
    assert len(ModelStore(home, "digits").versions()) == 1
    assert not run.promotion_file.exists()


def test_the_first_model_needs_no_comparison_and_the_current_one_none_with_itself(home: Home):
    run = challenge(home, 0.9, 0.0)
    assert promote(run, home)["version"] == 1
    assert promote(run, home)["version"] == 1


def test_a_comparison_with_another_version_than_the_current_one_is_refused(home: Home):
    promote(validated_run(home, "champion"), home)
    run = challenge(home, 0.95, 0.0)
    promote(validated_run(home, "quicker", weights=b"quicker"), home)
    with pytest.raises(PromotionError, match=r"compares with version 2.* compares with 1: .* clear validate"):
        promote(run, home)
    write_report(run, champion=None)
    with pytest.raises(PromotionError, match="compares with none"):
        promote(run, home)


def test_of_two_challengers_at_once_the_worse_does_not_become_current(home: Home, monkeypatch):
    """Both were judged against the champion; the second to come sees the first as the current version."""
    promote(validated_run(home, "champion"), home)
    better, worse = challenge(home, 0.99, 0.0), challenge(home, 0.94, 0.0)
    writes, waiting = threading.Event(), threading.Event()
    write = model_store.write_version

    def slow(*arguments: object) -> None:
        writes.set()
        waiting.wait(PATIENCE_S)
        write(*arguments)

    monkeypatch.setattr(model_store, "write_version", slow)
    with futures.ThreadPoolExecutor() as threads:
        first = threads.submit(promote, better, home)
        assert writes.wait(PATIENCE_S)  # the first holds the store, and is not current yet
        second = threads.submit(promote, worse, home)
        with pytest.raises(futures.TimeoutError):
            second.result(0.5)
        waiting.set()
        assert first.result()["accuracy"] == 0.99
        with pytest.raises(PromotionError, match="another was promoted since; clear validate"):
            second.result()
    assert current(home, "digits").value == 0.99


def test_a_challenger_that_loses_ends_as_skipped(home: Home):
    """99 is what Airflow takes for a task that has nothing to do."""
    promote(validated_run(home, "champion"), home)
    run = challenge(home, 0.5, 0.0)
    command = [sys.executable, "-m", "tasks.promote", "--run-directory", str(run.path)]
    environment = os.environ | {"SHARDLINE_HOME": str(home.path)}
    finished = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 99
    assert finished.stderr.startswith("ChampionStays: ")


def test_promoting_again_returns_the_same_version(home: Home):
    run = validated_run(home, "1")
    first = promote(run, home)
    run.promotion_file.unlink()
    assert promote(run, home) == first
    assert promote(validated_run(home, "2", weights=b"others"), home)["version"] == 2
    assert promote(run, home) == first


def test_a_run_that_trained_to_the_same_bytes_promotes_nothing_new(home: Home):
    first = promote(validated_run(home, "1"), home)
    store = ModelStore(home, "digits")
    before = (store.path / "current").lstat().st_mtime_ns
    again = validated_run(home, "2")
    with pytest.raises(AlreadyAVersion, match=r"byte for byte, version 1 of digits .* it is current, and stays so"):
        promote(again, home)
    assert [version.version for version in store.versions()] == [1]
    assert (store.path / "current").lstat().st_mtime_ns == before
    assert json.loads(again.promotion_file.read_bytes()) == first | {"new": False}


def test_the_bytes_of_a_version_that_is_not_current_do_not_become_current_by_themselves(home: Home):
    """As after a roll back: what was rolled back from is not brought back by the next run."""
    promote(validated_run(home, "1"), home)
    promote(validated_run(home, "2", weights=b"others"), home)
    ModelStore(home, "digits").roll_back(1)
    with pytest.raises(
        AlreadyAVersion, match=r"version 2 of digits .* version 1 is current.*rollback 2 --model digits"
    ):
        promote(validated_run(home, "3", weights=b"others"), home)
    assert current(home, "digits").version == 1


def test_the_same_bytes_of_another_model_are_that_models_first_version(home: Home):
    promote(validated_run(home, "1"), home)
    other = validated_run(home, "2")
    other.write_config(RunConfig(model_name="others"))
    assert promote(other, home)["version"] == 1


def test_nothing_new_ends_as_skipped(home: Home):
    promote(validated_run(home, "1"), home)
    command = [sys.executable, "-m", "tasks.promote", "--run-directory", str(validated_run(home, "2").path)]
    environment = os.environ | {"SHARDLINE_HOME": str(home.path)}
    finished = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr.startswith("AlreadyAVersion: nothing is new")) == (99, True)


def test_a_new_merge_of_the_same_run_is_a_new_version(home: Home):
    run = validated_run(home, "1")
    promote(run, home)
    rewrite_model(run, b"other weights")
    write_report(run)
    assert promote(run, home)["version"] == 2


def test_a_run_outside_home_is_promoted(home: Home, tmp_path: Path):
    run = validated_run(Home(tmp_path / "elsewhere"), "1")
    promote(run, Home(tmp_path / "home"))
    version = current(Home(tmp_path / "home"), "digits")
    assert version is not None
    assert version.run == str(run.path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda run: run.report_file.unlink(), RunDirectoryError, "the task validate writes it"),
        (lambda run: run.merge_file.unlink(), RunDirectoryError, "the task merge writes it"),
        (lambda run: run.config_file.unlink(), RunDirectoryError, "the task prepare_dataset writes it"),
        (lambda run: run.report_file.write_text("{"), PromotionError, "expected the report of a validation"),
        (lambda run: run.report_file.write_text("[]"), PromotionError, "expected the report of a validation"),
        (lambda run: run.report_file.write_text("{}"), PromotionError, "expected the report of a validation"),
        (
            lambda run: write_report(run, passed=False, failures=["too low"]),
            PromotionError,
            "validation failed: too low",
        ),
        (lambda run: write_report(run, passed="yes"), PromotionError, "validation failed"),
        (lambda run: rewrite_model(run, b"other"), PromotionError, "merge ran again since; clear validate"),
        (lambda run: (run.merged / "model.ckpt").write_bytes(b"x"), PromotionError, "changed since; clear merge"),
        (lambda run: (run.merged / "model.ckpt").unlink(), PromotionError, r"model.ckpt: .*No such file"),
    ],
)
def test_what_was_not_validated_is_not_promoted(home: Home, change, error, message: str):
    run = validated_run(home, "1")
    change(run)
    with pytest.raises(error, match=message):
        promote(run, home)
    assert current(home, "digits") is None
    assert not list(home.models.glob("digits/versions/*"))
    assert not run.promotion_file.exists()


def test_the_task_prints_its_result_last(home: Home):
    validated_run(home, "manual__1")
    finished = subprocess.run(
        [sys.executable, "-m", "tasks.promote"],
        cwd=PROJECT,
        env=os.environ
        | {
            "SHARDLINE_HOME": str(home.path),
            "SHARDLINE_DAG_ID": "sharded_training",
            "SHARDLINE_RUN_ID": "manual__1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1])["version"] == 1


def test_promotion_needs_neither_mindspore_nor_scikit_learn():
    program = (
        "import sys, tasks.promote, shardline.store.model_store; "
        "print([name for name in ('mindspore', 'sklearn', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_a_version_of_which_nothing_says_how_good_it_is_has_no_metric(home: Home):
    """As a described training without a command of its own leaves it."""
    run = validated_run(home, "1")
    report = json.loads(run.report_file.read_text())
    del report["accuracy"]
    run.report_file.write_text(json.dumps(report | {"metric": None}))
    result = promote(run, home)
    assert result["metric"] is None
    assert "accuracy" not in result
    version = current(home, "digits")
    assert version is not None
    assert (version.metric, version.value) == (None, None)
    version.verify()
