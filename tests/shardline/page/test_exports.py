"""What the page is told of an export: mapping and proof, nothing where there is none, and a damaged record as it is."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from shardline.page.containment import Contained
from shardline.page.exports import read_export
from shardline.run.directory import Home
from shardline.store.version import Version

DIGEST = "a" * 64
LOGITS = {"samples": 64, "relative_difference": 2.6e-7, "tolerance": 1e-5, "computed_by": {"torch": "2.9"}}
RECORD = {
    "source": {"model": "digits", "version": 3, "digest": DIGEST},
    "mapping": {"name": "mine.toml", "digest": "b" * 64},
    "tensors": 6,
    "bytes": 2_345_000,
    "left_out": ["global_step", "moment1.w"],
    "files": {"config.json": "c" * 64, "model.safetensors": "d" * 64},
    "proof": {"bytes": "every element was read again", "logits": None, "said": "proved by bytes alone: none computes"},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = Home(tmp_path).export("digits", 3)
    folder.mkdir(parents=True)
    return folder


def shown(folder: Path, content: bytes | None = None) -> dict | None:
    if content is not None:
        (folder / "export.json").write_bytes(content)
    fields = dict.fromkeys(("metric", "value", "step"))
    version = Version(
        version=3, digest=DIGEST, run="runs/d/r", model="model.ckpt", files={}, path=folder / "none", **fields
    )
    store = folder.parents[1]
    return read_export(Contained.below(store, store.parent), folder, version)


def record(**changed: Any) -> bytes:
    return json.dumps(RECORD | changed).encode()


def test_a_version_that_was_not_exported_has_none(folder):
    assert shown(folder) is None
    folder.rmdir()
    assert shown(folder) is None


def test_folder_mapping_and_the_proof_of_bytes_alone(folder):
    assert shown(folder, record()) == {
        "folder": str(folder),
        "problem": None,
        "mapping": "mine.toml",
        "mapping_digest": "b" * 64,
        "files": 2,
        "tensors": 6,
        "bytes": 2_345_000,
        "left_out": ["global_step", "moment1.w"],
        "compared_bytes": "every element was read again",
        "logits": None,
        "said": "proved by bytes alone: none computes",
    }


def test_logits_come_with_their_bound(folder):
    found = shown(folder, record(proof=RECORD["proof"] | {"logits": LOGITS}))
    assert found["logits"] == {"samples": 64, "relative_difference": 2.6e-7, "tolerance": 1e-5}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b"[" * 100_000,
        record(source=None),
        record(mapping=[]),
        record(files=["model.safetensors"]),
        record(tensors="many"),
        record(bytes=math.inf),
        record(left_out=None),
        record(proof=None),
        record(proof=RECORD["proof"] | {"logits": {}}),
        record(proof=RECORD["proof"] | {"logits": LOGITS | {"tolerance": math.nan}}),
        record(proof=RECORD["proof"] | {"logits": LOGITS | {"samples": None}}),
    ],
)
def test_a_damaged_record_is_a_problem_that_says_where_and_what_to_do(folder, content):
    found = shown(folder, content)
    assert found["folder"] == str(folder)
    assert str(folder / "export.json") in found["problem"]
    assert found["problem"].endswith("; clear export, or export again")
    assert "proof" not in found
    assert "logits" not in found


def test_an_export_of_other_bytes_is_not_called_this_version_s(folder):
    found = shown(folder, record(source={"digest": "e" * 64}))
    assert f"expected the export of {DIGEST}, found that of {'e' * 64}" in found["problem"]


def test_a_record_elsewhere_is_not_followed(folder, tmp_path):
    (tmp_path / "secret.json").write_bytes(record())
    (folder / "export.json").symlink_to(tmp_path / "secret.json")
    assert "leads out of" in shown(folder)["problem"]
