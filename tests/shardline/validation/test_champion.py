"""The current model is judged on the challenger's data: by its own report if that is of the same data, or anew."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from shardline.base.errors import ValidationError
from shardline.datasets import digits
from shardline.recipes.lookup import train_spec
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.store.promotion import promote
from shardline.validation.champion import HeldOut, judge_champion
from shardline.validation.examination import validate
from tests.shardline.validation import merged_run
from tests.shardline.validation.merged_run import Weights, make_run


@pytest.fixture(scope="module")
def dataset_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merged_run.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def weights(dataset_file: Path) -> Weights:
    return merged_run.least_squares_weights(dataset_file)


@pytest.fixture
def home(tmp_path: Path, dataset_file: Path, weights: Weights) -> Home:
    """A store whose current version was trained and validated on the embedded digits."""
    home = Home(tmp_path / "home")
    run = make_run(tmp_path / "champion", dataset_file, weights, min_accuracy=0.5)
    validate(run, home)
    promote(run, home)
    return home


def accuracy_in(run: RunDirectory) -> float:
    return json.loads(run.report_file.read_bytes())["accuracy"]


def test_on_the_same_data_its_own_report_counts(tmp_path: Path, home: Home, dataset_file: Path, weights: Weights):
    worse = weights | {"layer3.weight": weights["layer3.weight"][:, [1, 0, *range(2, 10)]]}  # takes 0 for 1
    challenger = make_run(tmp_path / "run", dataset_file, worse, min_accuracy=0.0, champion_margin=0.0)
    validate(challenger, home)
    report = json.loads(challenger.report_file.read_bytes())
    assert report["champion"]["version"] == 1
    assert report["champion"]["value"] == accuracy_in(RunDirectory(tmp_path / "champion"))
    assert report["champion"]["value"] > report["accuracy"]
    assert "Against the current version, 1: accuracy " in (challenger.validation / "report.md").read_text()


def held_out(dataset_file: Path, count: int, digest: str) -> HeldOut:
    samples, labels = digits.load(dataset_file, "test")
    return HeldOut(samples[:count], labels[:count], digest)


def test_on_other_data_it_computes_them(home: Home, dataset_file: Path, weights: Weights):
    """On the first fifty digits alone, whose data set it has never seen, it is as good as NumPy says."""
    config = RunConfig(champion_margin=0.0)
    other = held_out(dataset_file, 50, "another digest")
    champion = judge_champion(home, config, train_spec(config), other)
    expected = merged_run.logits_of(weights, other.samples).argmax(axis=1) == other.labels
    assert champion is not None
    assert champion.value == pytest.approx(float(expected.mean()))


def test_nothing_is_compared_without_a_margin_or_before_the_first_promotion(home: Home, dataset_file: Path):
    data = held_out(dataset_file, 50, "another digest")
    config, asked = RunConfig(), RunConfig(champion_margin=0.0)
    assert judge_champion(home, config, train_spec(config), data) is None
    assert judge_champion(Home(home.path / "empty"), asked, train_spec(asked), data) is None


def test_models_of_different_samples_cannot_be_compared(home: Home, dataset_file: Path, monkeypatch):
    config = RunConfig(champion_margin=0.0)
    spec = train_spec(config)
    other = SimpleNamespace(sample_shape=(128,))
    monkeypatch.setattr("shardline.validation.champion.network_of", lambda config: other)
    with pytest.raises(ValidationError, match="champion_margin: version 1, the current one, takes samples of shape"):
        judge_champion(home, config, spec, held_out(dataset_file, 50, "another digest"))
