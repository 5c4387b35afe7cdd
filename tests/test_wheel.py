"""The library as `pip install` gives it: a wheel of this checkout, in an environment with NumPy and BLAKE3 alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.sharding import save_manifest, save_shards, save_strategy, tensors

PROJECT = Path(__file__).parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A new virtual environment with the wheel and what it asks for; built from a copy, for a build leaves files."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PROJECT / "shardline", folder / "source" / "shardline", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder / "source")
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "build", "--wheel", "--out-dir", folder, folder / "source"], check=True)
    subprocess.run([*uv, "venv", "--python", sys.executable, folder / "venv"], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*uv, "pip", "install", "--python", folder / "venv" / "bin" / "python", wheel], check=True)
    return folder / "venv" / "bin"


@pytest.fixture
def run(environment, tmp_path) -> Run:
    """Run a program of that environment, in a folder far from the checkout and knowing nothing of it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SHARDLINE_", "PYTHON"))}

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [environment / program, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def shards(tmp_path) -> Path:
    """Eight ranks' slices, their manifest, and `strategy.ckpt`."""
    save_shards(tmp_path / "shards", tensors())
    save_manifest(tmp_path / "shards", save_strategy(tmp_path / "strategy.ckpt"))
    return tmp_path / "shards"


def succeeded(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def is_whole(file: Path) -> bool:
    """Whether `file` holds the tensors that were sharded, read by a library that isn't ours."""
    merged = load_file(file)
    return {*merged} == {*tensors()} and all(np.array_equal(merged[name], array) for name, array in tensors().items())


def test_numpy_and_blake3_are_all_that_it_needs(run):
    names = "from importlib.metadata import distributions as d; print(*sorted(i.metadata['Name'].lower() for i in d()))"
    assert {*succeeded(run("python", "-c", names)).split()} <= {"blake3", "numpy", "shardline", "typing_extensions"}


def test_it_merges_a_shard_set_and_verifies_it(run, shards, tmp_path):
    output = tmp_path / "whole.safetensors"
    merged = run("shardline", "merge", "--shards", shards, "--strategy", tmp_path / "strategy.ckpt", "--output", output)
    assert json.loads(succeeded(merged).splitlines()[-1])["merged_file"] == str(output)
    assert is_whole(output)
    assert json.loads(succeeded(run("shardline", "verify", output, "--json")))["verified"] == str(output)
    damaged = output.read_bytes()
    output.write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    refused = run("shardline", "verify", output)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("ProofError: ")


def test_it_merges_in_parts(run, shards, tmp_path):
    output = tmp_path / "whole.safetensors"
    source = ("--shards", shards, "--strategy", tmp_path / "strategy.ckpt")
    succeeded(run("shardline", "merge-parts", "plan", *source, "--output", output))
    for part in ("1/2", "2/2"):
        succeeded(run("shardline", "merge-parts", "write", "--output", output, "--part", part))
    succeeded(run("shardline", "merge-parts", "commit", "--output", output))
    assert is_whole(output)


def test_it_reshards_and_inspects(run, shards, tmp_path):
    rows = Layout((2,), ((0,), ()))
    layouts = {"layer1.weight": rows, "layer1.bias": Layout((2,), ((),)), "layer3.weight": rows}
    target = save_strategy(tmp_path / "target.ckpt", {**layouts, "moment1.layer1.weight": rows})
    source = ("--shards", shards, "--strategy", tmp_path / "strategy.ckpt")
    succeeded(run("shardline", "reshard", *source, "--to-strategy", target, "--output", tmp_path / "two"))
    file = next((tmp_path / "two" / "rank_1").glob("*.ckpt"))
    described = json.loads(succeeded(run("shardline", "inspect", file, "--json")))
    shapes = {tensor["name"]: tensor["shape"] for tensor in described["tensors"]}
    assert {*shapes} == {*tensors()}
    assert (shapes["layer1.weight"], shapes["layer3.weight"]) == ([6, 8], [4, 5])


def test_it_says_what_it_can_do(run):
    for ended in (run("shardline", "--help"), run("python", "-m", "shardline", "--help")):
        for command in ("merge", "merge-parts", "verify", "reshard", "inspect", "adopt", "models"):
            assert f"\n  {command} " in succeeded(ended)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("models", "list"), "the package pydantic, which is not installed"),
        (("merge", "--run-directory", "run"), "the package pydantic, which is not installed"),
        (("cards",), "SHARDLINE_HOME is not set; set it to the folder"),
    ],
)
def test_what_needs_more_says_what_is_missing(run, arguments, missing):
    ended = run("shardline", *arguments)
    assert ended.returncode == 2
    (message,) = ended.stderr.splitlines()
    assert message.startswith("ConfigError: ")
    assert missing in message
