from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import ConfigError, DatasetError
from shardline.datasets.digits import Digits
from shardline.datasets.text import Text, windows
from shardline.settings.run_config import RunConfig

CONTENT = b"".join(b"line %03d of the text\n" % number for number in range(200))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    file = tmp_path / "text"
    file.write_bytes(CONTENT)
    return RunConfig(data_source="text", text_file=str(file))


def prepared(config: RunConfig, tmp_path: Path, sequence_length: int = 16) -> Path:
    """The `dataset.json` of the text that `config` names."""
    file = tmp_path / "dataset.json"
    file.write_text(Text(sequence_length).prepare(config, tmp_path / "data").to_json())
    return file


def test_every_token_is_the_label_of_the_one_before(config: RunConfig, tmp_path: Path):
    dataset_file = prepared(config, tmp_path)
    samples, labels = Text(16).load(dataset_file, "train")
    tokens = np.frombuffer(CONTENT, np.uint8)
    np.testing.assert_array_equal(samples.ravel(), tokens[: samples.size])
    np.testing.assert_array_equal(labels.ravel(), tokens[1 : samples.size + 1])
    assert samples.shape == labels.shape == (windows(len(CONTENT) * 9 // 10, 16), 16)


def test_the_last_tenth_is_held_out_from_a_line_on(config: RunConfig, tmp_path: Path):
    dataset_file = prepared(config, tmp_path)
    folder = Path(json.loads(dataset_file.read_bytes())["directory"])
    train, test = (folder / "train.txt").read_bytes(), (folder / "test.txt").read_bytes()
    assert train + test == CONTENT
    assert train.endswith(b"\n")
    assert test.startswith(b"line 180")


def test_a_text_of_one_line_is_cut_where_its_last_tenth_begins(tmp_path: Path):
    (tmp_path / "text").write_bytes(b"\n" + b"x" * 999)
    config = RunConfig(data_source="text", text_file=str(tmp_path / "text"))
    document = json.loads(prepared(config, tmp_path).read_bytes())
    assert (document["train"]["tokens"], document["test"]["tokens"]) == (900, 100)


def test_the_description_counts_tokens_and_names_its_kind(config: RunConfig, tmp_path: Path):
    document = json.loads(prepared(config, tmp_path).read_bytes())
    assert (document["kind"], document["source"]) == ("text", "text")
    assert document["train"]["tokens"] + document["test"]["tokens"] == len(CONTENT)
    assert {len(document["digest"]), len(document["train"]["digest"])} == {64}


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (1, 0), (16, 0), (17, 1), (32, 1), (33, 2)])
def test_a_window_needs_one_token_more_than_it_is_long(tokens: int, expected: int):
    assert windows(tokens, 16) == expected


def test_a_longer_window_takes_the_same_prepared_text(config: RunConfig, tmp_path: Path):
    short, long = (Text(length).prepare(config, tmp_path / "data") for length in (16, 64))
    assert short.description == long.description
    assert short.count("train") == windows(short.description.train.tokens, 16)
    assert long.count("train") == windows(short.description.train.tokens, 64)


def test_windows_longer_than_the_held_out_text_are_refused(config: RunConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"sequence_length: expected at most \d+, one less than the test text has"):
        Text(1000).prepare(config, tmp_path / "data")


def test_a_text_that_changed_since_is_refused(config: RunConfig, tmp_path: Path):
    dataset_file = prepared(config, tmp_path)
    file = next((tmp_path / "data").rglob("test.txt"))
    file.write_bytes(file.read_bytes().replace(b"text", b"TEXT"))
    with pytest.raises(DatasetError, match=r"the test text is not that of .*run prepare_dataset again"):
        Text(16).load(dataset_file, "test")
    assert len(Text(16).load(dataset_file, "train")[0]) > 0
    again = Text(16).load(prepared(config, tmp_path), "test")
    assert b"TEXT" not in again[0].tobytes()


def test_a_text_that_is_gone_is_refused(config: RunConfig, tmp_path: Path):
    dataset_file = prepared(config, tmp_path)
    next((tmp_path / "data").rglob("test.txt")).unlink()
    with pytest.raises(DatasetError, match=r"test.txt: expected the test text: No such file"):
        Text(16).load(dataset_file, "test")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "images"}', '{"kind": "text"}'])
def test_a_description_of_something_else_is_refused(tmp_path: Path, content: str):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=r"expected the description of a text that prepare_dataset writes"):
        Text(16).load(tmp_path / "dataset.json", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "expected a readable file: No such file"), (b"", "at least 20 bytes, found 0"), (b"short", "found 5")],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes | None, message: str):
    file = tmp_path / "text"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as raised:
        prepared(RunConfig(data_source="text", text_file=str(file)), tmp_path)
    assert str(file) in str(raised.value)


def test_a_folder_is_no_text_file(tmp_path: Path):
    with pytest.raises(DatasetError, match="Is a directory; check text_file"):
        prepared(RunConfig(data_source="text", text_file=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("source", ["mnist", "directory"])
def test_images_are_no_text(tmp_path: Path, source: str):
    config = RunConfig(network="mlp", data_source=source, data_directory="/srv")
    with pytest.raises(ConfigError, match=f"learns texts: expected data_source 'embedded' .* found '{source}'"):
        prepared(config, tmp_path)


def test_a_text_is_no_images(config: RunConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"learns images of digits: expected data_source .*, found 'text'"):
        Digits().prepare(config, tmp_path)
