"""`shardline export`: the command as a user types it, on a model store that a real run filled."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from shardline.cli.export_command import main
from tests.patience import PATIENCE_S

PROJECT = Path(__file__).parents[3]
RECORDED = Path(__file__).parents[2] / "fixtures" / "gpt_home"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    shutil.copytree(RECORDED, tmp_path / "home", symlinks=True)
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.mark.parametrize("version", [[], ["1"]])
def test_a_version_or_the_current_one_becomes_a_folder(version, capsys):
    assert main(["gpt", *version, "new/out"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["output"] == "new/out"
    assert "proved by bytes alone: " in said.err
    assert len(load_file("new/out/model.safetensors")) == 29


def test_json_is_the_record_alone(capsys):
    assert main(["gpt", "out", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"output": "out", **json.loads(Path("out/export.json").read_bytes())}
    assert said.err == ""


def test_options_stand_where_they_are_typed_and_a_number_may_be_a_folder(capsys):
    assert main(["gpt", "--max-file-size", "20kB", "1", "--json", "out"]) == 0
    assert Path("out/model.safetensors.index.json").is_file()
    assert main(["gpt", "./1", "--json"]) == 0
    assert Path("1/model.safetensors").is_file()


def test_a_mapping_file_says_what_becomes_what(capsys):
    rule = {"from": "block{i}.up.weight", "split": 1, "to": ["gate.{i-1}", "up.{i-1}"]}
    Path("m.json").write_text(json.dumps({"leave_out": ["[!b]*", "*.[!u]*.*", "*.bias", "beta*"], "tensors": [rule]}))
    assert main(["gpt", "out", "--mapping", "m.json"]) == 0
    found = load_file("out/model.safetensors")
    assert {name: array.shape for name, array in found.items()} == dict.fromkeys(
        ("gate.0", "up.0", "gate.1", "up.1"), (16, 32)
    )


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["other", "out"], 1, "expected a current version of other, found none; promote one first"),
        (["gpt", "2", "out"], 1, "no version 2; there are 1"),
        (["gpt", "1"], 2, "1: a version, or where to? Give both, shardline export gpt 1 OUTPUT; or ./1"),
        (["gpt", "/"], 2, "/ is no folder that can be made"),
        (["gpt", "."], 1, "is there already, and not empty"),
        (["gpt", "home/models/gpt/current/model.ckpt/out"], 1, "model.ckpt: cannot be made: File exists"),
        (["../gpt", "out"], 2, "model_name"),
        (["gpt", "home"], 1, "home is there already, and not empty"),
        (
            ["gpt", "out", "--must-compare"],
            1,
            "the logits cannot be compared: transformers and torch are not installed",
        ),
        (["gpt", "out", "--mapping", "m.toml"], 2, "m.toml cannot be read: No such file"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_message(given, code, message, capsys):
    assert main(given) == code
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert not Path("out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_while_logits_are_computed_it_leaves_no_folder_and_can_be_done_again(tmp_path, number):
    os.mkfifo(tmp_path / "begun")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/begun\nexec sleep {PATIENCE_S}\n")
    python.chmod(0o755)
    command = [sys.executable, "-m", "shardline", "export", "gpt", str(tmp_path / "out")]
    environment = os.environ | {"SHARDLINE_HF_PYTHON": str(python)}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.DEVNULL) as exporting:
        other = psutil.Process(int((tmp_path / "begun").read_text()))
        exporting.send_signal(number)
        assert exporting.wait(PATIENCE_S) == (143 if number == signal.SIGTERM else -9)
    other.wait(PATIENCE_S)
    assert not (tmp_path / "out").exists()
    assert main(["gpt", "out"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out"], "what was staged is removed"
