from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard, DatasetError, RunDirectoryError, ValidationError
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.datasets import digits
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.validation import merged_network
from shardline.validation.examination import validate
from tests.shardline.validation import merged_run
from tests.shardline.validation.merged_run import Weights, logits_of, make_run

PNG = b"\x89PNG\r\n\x1a\n"
HOME = Home(Path("/nowhere"))  # no champion to compare with


@pytest.fixture(scope="module")
def dataset_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merged_run.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def weights(dataset_file: Path) -> Weights:
    return merged_run.least_squares_weights(dataset_file)


@pytest.fixture
def run(tmp_path: Path, dataset_file: Path, weights: Weights) -> RunDirectory:
    return make_run(tmp_path / "run", dataset_file, weights, min_accuracy=0.85)


def test_a_rank_validates_and_prints_the_result_last(run: RunDirectory, dataset_file: Path, weights: Weights):
    finished = subprocess.run(
        [sys.executable, "-m", "tasks.validate", "--run-directory", str(run.path)],
        cwd=PROJECT,
        env=os.environ | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    images, labels = digits.load(dataset_file, "test")
    accuracy = float((logits_of(weights, images).argmax(axis=1) == labels).mean())
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result == {
        "run_directory": str(run.path),
        "accuracy": accuracy,
        "loss": pytest.approx(json.loads(run.report_file.read_bytes())["loss"]),
        "report": str(run.report_file),
        "merged_digest": file_digest(run.merged / "model.ckpt"),
    }
    assert "# Validation passed" in finished.stdout
    assert f"- Accuracy: **{accuracy:.4f}** on 500 held-out images (at least 0.85)" in finished.stdout


@pytest.mark.parametrize("merged_format", ["ckpt", "safetensors"])
def test_a_merged_model_is_validated(tmp_path: Path, dataset_file: Path, weights: Weights, merged_format: str):
    run = make_run(tmp_path / "run", dataset_file, weights, min_accuracy=0.85, merged_format=merged_format)
    validate(run, HOME)
    report = json.loads(run.report_file.read_bytes())
    assert report["passed"] is True
    assert report["failures"] == []
    assert report["samples"] == 500
    assert report["merged"] == {
        "file": f"model.{merged_format}",
        "digest": file_digest(run.merged / f"model.{merged_format}"),
        "step": 700,
    }
    assert report["dataset_digest"] == json.loads(dataset_file.read_bytes())["digest"]
    assert report["sharded_logits"]["samples"] == 32
    compared = report["sharded_logits"]
    assert compared["relative_difference"] <= compared["tolerance"] < 2e-5
    assert (compared["decisions"], compared["decisions_changed_clearly"]) == (32, 0)
    assert compared["merged_loss"] == pytest.approx(compared["ranks_loss"], rel=1e-5)
    assert [scores["support"] for scores in report["classes"]] == [50] * 10
    assert np.trace(report["confusion_matrix"]) == round(report["accuracy"] * 500)
    for name in ("confusion_matrix.png", "loss.png"):
        assert (run.validation / name).read_bytes().startswith(PNG)
    assert (run.validation / "report.md").read_text().startswith("# Validation passed")


def test_validating_again_gives_the_same_report(run: RunDirectory):
    validate(run, HOME)
    first = {file.name: file.read_bytes() for file in run.validation.iterdir()}
    validate(run, HOME)
    assert {file.name: file.read_bytes() for file in run.validation.iterdir()} == first


def test_too_low_an_accuracy_fails_after_the_report(tmp_path: Path, dataset_file: Path, weights: Weights):
    run = make_run(tmp_path / "run", dataset_file, weights, min_accuracy=0.999)
    with pytest.raises(ValidationError, match=r"expected an accuracy of at least 0.999, found 0\.\d+ on 500"):
        validate(run, HOME)
    report = json.loads(run.report_file.read_bytes())
    assert report["passed"] is False
    assert "expected an accuracy of at least 0.999" in report["failures"][0]
    assert "# Validation failed" in (run.validation / "report.md").read_text()


def test_a_merge_that_lost_a_slice_is_noticed(run: RunDirectory, weights: Weights):
    damaged = weights | {"layer1.weight": weights["layer1.weight"].copy()}
    damaged["layer1.weight"][:, 500:] = 0
    merged_run.save_merged(run, damaged, "ckpt")
    with pytest.raises(ValidationError, match="does not compute what the ranks computed: expected logits that differ"):
        validate(run, HOME)
    report = json.loads(run.report_file.read_bytes())
    assert report["passed"] is False
    assert report["sharded_logits"]["relative_difference"] > 1e-5


def test_a_single_weight_that_differs_is_noticed_unless_more_is_tolerated(run: RunDirectory, weights: Weights):
    damaged = weights | {"layer3.bias": weights["layer3.bias"] + np.float32([1e-3] + [0] * 9)}
    merged_run.save_merged(run, damaged, "ckpt")
    with pytest.raises(ValidationError, match="expected logits that differ by at most"):
        validate(run, HOME)
    run.write_config(run.read_config().model_copy(update={"logits_tolerance": 0.01}))
    validate(run, HOME)
    assert json.loads(run.report_file.read_bytes())["sharded_logits"]["tolerance"] == 0.01


def write_shard_set(run: RunDirectory, step: int) -> None:
    run.checkpoints.mkdir(exist_ok=True)
    files = tuple(SliceFile(rank, f"rank_{rank}/checkpoint-1_1.ckpt", 1, "0" * 64) for rank in range(8))
    ShardSet(8, step, 1, "0" * 64, "0" * 64, False, files).write(run.checkpoints)


def test_an_earlier_step_is_not_compared_with_the_last_one(run: RunDirectory, weights: Weights):
    write_shard_set(run, 800)
    merged_run.save_merged(run, weights | {"layer3.bias": weights["layer3.bias"] + np.float32(1e-3)}, "ckpt")
    validate(run, HOME)
    assert json.loads(run.report_file.read_bytes())["sharded_logits"] is None
    assert "not compared, since an earlier step" in (run.validation / "report.md").read_text()
    write_shard_set(run, 900)
    merged_run.write_proof(run, run.merged / "model.ckpt", step=900)
    with pytest.raises(ValidationError, match="expected logits that differ by at most"):
        validate(run, HOME)


def save_reference(run: RunDirectory, logits: np.ndarray, labels: int = 2) -> None:
    samples = np.zeros((2, 1, 28, 28), np.float32)
    np.savez(run.reference_logits_file, samples=samples, labels=np.zeros(labels, np.int32), logits=logits)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda run: run.merge_file.unlink(), RunDirectoryError, "the task merge writes it"),
        (lambda run: run.merge_file.write_text("{}"), CorruptShard, "this is no record of a merge"),
        (
            lambda run: run.merge_file.write_text(
                '{"format": 1, "output": [], "inputs": {}, "options": {}, "tensors": []}'
            ),
            CorruptShard,
            "it names no file",
        ),
        (
            lambda run: (run.merged / "model.ckpt").unlink(),
            ValidationError,
            "expected the merged model .* No such file",
        ),
        (
            lambda run: (run.merged / "model.ckpt").write_bytes(b"x"),
            ValidationError,
            "changed or damaged after merging",
        ),
        (lambda run: run.dataset_file.unlink(), DatasetError, "prepare_dataset writes"),
        (lambda run: run.reference_logits_file.unlink(), RunDirectoryError, "the task train writes it"),
        (
            lambda run: run.reference_logits_file.write_bytes(b""),
            ValidationError,
            "expected the arrays samples, labels",
        ),
        (lambda run: run.reference_logits_file.write_bytes(b"PK\x03\x04"), ValidationError, "expected the arrays"),
        (lambda run: np.savez(run.reference_logits_file, samples=np.zeros(3)), ValidationError, "expected the arrays"),
        (
            lambda run: save_reference(run, np.full((2, 10), np.nan)),
            ValidationError,
            "expected finite logits, not all 0",
        ),
        (
            lambda run: save_reference(run, np.ones((2, 9))),
            ValidationError,
            r"expected logits of shape \(2, 10\), found \(2, 9\)",
        ),
        (
            lambda run: save_reference(run, np.ones((2, 10)), labels=3),
            ValidationError,
            r"expected labels of shape \(2,\), found \(3,\)",
        ),
        (lambda run: run.metrics_file.unlink(), RunDirectoryError, "the task train writes it"),
        (lambda run: run.metrics_file.write_text("loss\n"), ValidationError, "expected a JSON object on each line"),
        (lambda run: run.metrics_file.write_text("3\n"), ValidationError, "expected a JSON object on each line"),
    ],
)
def test_what_is_missing_or_damaged_is_named(run: RunDirectory, damage, error, message: str):
    run.validation.mkdir()
    run.report_file.write_text('{"passed": true}')
    damage(run)
    with pytest.raises(error, match=message):
        validate(run, HOME)
    assert not run.report_file.exists()


def without(weights: Weights, name: str) -> Weights:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: without(weights, "layer2.bias"), "found none of layer2.bias"),
        (lambda weights: {"other": weights["layer1.bias"]}, "MindSpore cannot load it into the network"),
        (lambda weights: weights | {"layer1.bias": np.zeros(256, np.float32)}, "cannot load it into the network"),
        (lambda weights: weights | {"layer1.bias": np.zeros(512, np.float16)}, "cannot load it into the network"),
    ],
)
@pytest.mark.parametrize("merged_format", ["ckpt", "safetensors"])
def test_another_networks_checkpoint_is_refused(run: RunDirectory, weights: Weights, change, message, merged_format):
    run.write_config(run.read_config().model_copy(update={"merged_format": merged_format}))
    merged_run.save_merged(run, change(weights), merged_format)
    with pytest.raises(ValidationError, match=message):
        validate(run, HOME)


def test_a_model_that_diverged_is_refused(run: RunDirectory, weights: Weights):
    merged_run.save_merged(run, weights | {"layer3.bias": np.full(10, np.inf, np.float32)}, "ckpt")
    with pytest.raises(ValidationError, match="found NaN or infinity for 500 of 500 samples"):
        validate(run, HOME)


def test_too_little_free_memory_for_mindspore_is_explained(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merged_network, "free_memory", lambda: 1000)
    with pytest.raises(ValidationError, match=r"only into free memory: .*merge to safetensors"):
        validate(run, HOME)


def test_the_files_own_pages_make_room(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    answers = [1000, 10**12]
    monkeypatch.setattr(merged_network, "free_memory", lambda: answers.pop(0))
    validate(run, HOME)
    assert answers == []
