"""A merged language model is validated: a bigram model whose weights are counted, not trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardline.base.errors import ValidationError
from shardline.datasets.text import Text
from shardline.recipes.lookup import train_spec
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.validation.examination import validate
from tests.shardline.networks.bigram import SEQUENCE_LENGTH
from tests.shardline.validation.merged_run import save_merged

NETWORK = "tests.shardline.networks.bigram:bigram"


def counted(samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The logarithm of how often each byte follows each byte, as logits float32 [256, 256]."""
    counts = np.full((256, 256), 0.1)
    np.add.at(counts, (samples.ravel(), labels.ravel()), 1)
    return np.log(counts).astype(np.float32)


def perplexity(weight: np.ndarray, samples: np.ndarray, labels: np.ndarray) -> float:
    """Of the bigram model, by NumPy alone."""
    logits = weight.astype(np.float64)[samples.ravel()]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(np.exp(-np.log(probabilities[np.arange(labels.size), labels.ravel()]).mean()))


@pytest.fixture
def make_run(tmp_path: Path):
    """A function: a run that is ready to be validated, its weights counted in its training text."""

    def make(**parameters: Any) -> tuple[RunDirectory, np.ndarray]:
        run = RunDirectory(tmp_path)
        config = RunConfig(network=NETWORK, corpus_size=100_000, sample_length=40, **parameters)
        run.write_config(config)
        run.dataset_file.write_text(train_spec(config).dataset.prepare(config, tmp_path / "data").to_json())
        weight = counted(*Text(SEQUENCE_LENGTH).load(run.dataset_file, "train"))
        save_merged(run, {"following.weight": weight, "following.bias": np.zeros(256, np.float32)}, "ckpt")
        samples, labels = (part[:64].astype(np.int32) for part in Text(SEQUENCE_LENGTH).load(run.dataset_file, "test"))
        np.savez(run.reference_logits_file, samples=samples, labels=labels, logits=weight[samples])
        run.metrics_file.write_text('{"step": 1, "epoch": 1, "loss": 5.5}\n{"step": 2, "epoch": 1, "loss": 3.5}\n')
        return run, weight

    return make


def test_its_perplexity_is_that_of_the_model_and_better_than_without_context(make_run):
    run, weight = make_run()
    result = validate(run, Home(run.path))
    report = json.loads(run.report_file.read_bytes())
    expected = perplexity(weight, *Text(SEQUENCE_LENGTH).load(run.dataset_file, "test"))
    assert report["perplexity"] == result["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert report["perplexity"] < 0.7 * report["unigram_perplexity"]
    assert report["tokens"] == (10_000 - 1) // SEQUENCE_LENGTH * SEQUENCE_LENGTH
    assert report["sharded_logits"]["relative_difference"] <= 1e-6
    assert report["passed"] is True


def test_the_report_shows_a_generated_text_and_where_context_helps(make_run):
    run, _ = make_run(sample_prompt="import ", sample_temperature=0.3)
    validate(run, Home(run.path))
    report = json.loads(run.report_file.read_bytes())
    generated = report["generated"]
    assert (generated["prompt"], generated["temperature"], generated["seed"]) == ("import ", 0.3, 1)
    assert len(generated["text"].encode()) == 40
    assert f"    import {generated['text'].splitlines()[0]}" in (run.validation / "report.md").read_text()
    assert len(report["loss_by_position"]) == SEQUENCE_LENGTH
    assert (run.validation / "loss_by_position.png").read_bytes().startswith(b"\x89PNG")
    assert not (run.validation / "confusion_matrix.png").exists()


def test_too_high_a_perplexity_fails_after_the_report(make_run):
    run, _ = make_run(max_perplexity=2.0)
    with pytest.raises(
        ValidationError, match=r"expected a perplexity of at most 2, found 1\d\.\d\d on 9\d{3} held-out"
    ):
        validate(run, Home(run.path))
    assert json.loads(run.report_file.read_bytes())["passed"] is False


def test_a_merge_of_another_model_is_noticed(make_run):
    run, weight = make_run()
    damaged = weight.copy()
    damaged[ord("e")] += np.float32(1e-3) * np.arange(256)
    save_merged(run, {"following.weight": damaged, "following.bias": np.zeros(256, np.float32)}, "ckpt")
    with pytest.raises(ValidationError, match="does not compute what the ranks computed"):
        validate(run, Home(run.path))
