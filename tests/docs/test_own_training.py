"""docs/own-training.md: its files work as they stand, and every mistake is said as the page says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError
from shardline.run.directory import Home
from shardline.settings.training import Training
from shardline.settings.training_file import read_training
from shardline.store.model_store import current

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "own-training.md").read_text()
TRAIN, JUDGE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(DESCRIPTION,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
(COMMANDS,) = re.findall(r"```shell\n(.*?)```", PAGE, re.DOTALL)
MISTAKES = re.findall(r"^\| `([^`]+)` \| `([^`]*)` \| `(linear\.toml:[^`]+)` \|$", PAGE, re.MULTILINE)


def test_the_mistakes_are_found_on_the_page():
    section = PAGE.partition("## Mistakes in the file")[2].partition("\n## ")[0]
    assert len(MISTAKES) == sum(line.startswith("| `") for line in section.splitlines()) > 20


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_every_mistake_is_said_as_the_page_says(tmp_path, old, new, message):
    assert old in DESCRIPTION
    file = tmp_path / "linear.toml"
    file.write_text(DESCRIPTION.replace(old, new.replace("\\n", "\n"), 1))
    with pytest.raises(ConfigError) as error:
        read_training(file)
    said = str(error.value).replace(f"{tmp_path}/", "").splitlines()
    assert any(line.startswith(message) for line in said), said


def test_every_key_is_on_the_page():
    table = PAGE.partition("| key | meaning")[2].partition("\n\n")[0]
    for name, field in Training.model_fields.items():
        key = field.alias or name
        annotation = field.annotation
        inner = getattr(annotation, "model_fields", None)
        if inner is None or key == "pipeline":
            assert re.search(rf"`{key}[.`]", table), key
        else:
            for one in inner:
                assert f"`{key}.{one}`" in table, f"{key}.{one}"


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The page's files, and its commands run one after another, as a reader would; what each printed last."""
    folder = tmp_path_factory.mktemp("own")
    trainings, home, run = folder / "trainings", folder / "home", folder / "run"
    trainings.mkdir()
    for name, text in (("train.py", TRAIN), ("judge.py", JUDGE), ("linear.toml", DESCRIPTION)):
        (trainings / name).write_text(text)
    environment = os.environ | {"SHARDLINE_HOME": str(home), "SHARDLINE_TRAININGS": str(trainings)}
    results = {}
    for line in COMMANDS.splitlines()[1:]:
        typed = line.replace("/tmp/run", str(run)).replace("python", sys.executable, 1)
        ended = subprocess.run(
            ["bash", "-c", typed], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        results[re.search(r"tasks\.(\w+)(?: tasks\.(\w+))?", line)[0]] = json.loads(ended.stdout.splitlines()[-1])
    return home, run, results


def test_a_reader_who_follows_the_page_has_a_promoted_model(followed):
    home, run, results = followed
    assert results["tasks.launch tasks.train"]["step"] == 100
    version = current(Home(home), "linear")
    assert (version.version, version.metric, version.step) == (1, "error", 100)
    assert version.value == results["tasks.launch tasks.validate"]["error"] < 0.1
    report = json.loads((run / "validation" / "report.json").read_text())
    assert (report["passed"], report["tensors"], report["proved"]) == (True, 1, 1)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        10 * epoch for epoch in range(1, 11)
    ]
