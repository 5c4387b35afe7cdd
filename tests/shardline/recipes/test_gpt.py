"""The language model through all tasks, and what is refused before."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.run.directory import RunDirectory
from shardline.run.environment import PROJECT
from tasks.prepare_dataset import _command_line
from tests.commands import run_here
from tests.shardline.export.numpy_gpt2 import gpt2_logits
from tests.shardline.recipes.whole_run import finished_run

SMALL = {"network": "gpt", "layers": 1, "hidden_size": 32, "heads": 4, "sequence_length": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run on 2 tensor-parallel ranks that multiply in float16."""
    return finished_run(
        tmp_path_factory.mktemp("home"),
        **SMALL,
        world_size=2,
        tensor_parallel=2,
        precision="float16",
        corpus_size=50_000,
        batch_size=16,
        epochs=1,
        learning_rate=0.01,
        max_perplexity=20,
        sample_length=50,
        sample_prompt="import ",
        hugging_face_export="built-in",
    )


def test_it_learns_more_than_how_often_each_byte_occurs(run: RunDirectory):
    report = json.loads(run.report_file.read_bytes())
    assert report["perplexity"] < 0.9 * report["unigram_perplexity"]
    assert report["loss"] == pytest.approx(math.log(report["perplexity"]))
    assert report["tokens"] == (5_000 - 1) // 32 * 32


def test_the_merged_model_computes_what_the_ranks_computed(run: RunDirectory):
    compared = json.loads(run.report_file.read_bytes())["sharded_logits"]
    assert (compared["samples"], compared["decisions"]) == (64, 64 * 32)
    assert 1e-5 < compared["relative_difference"] <= compared["tolerance"] < 0.02, "rounded to float16 on both sides"
    assert compared["decisions_changed_clearly"] == 0
    assert compared["merged_loss"] == pytest.approx(compared["ranks_loss"], rel=1e-3)


def test_it_writes_a_text(run: RunDirectory):
    generated = json.loads(run.report_file.read_bytes())["generated"]
    assert generated["prompt"] == "import "
    assert len(generated["text"]) > 10
    assert "    import " in (run.validation / "report.md").read_text()


def test_its_version_records_the_perplexity(run: RunDirectory):
    promotion = json.loads(run.promotion_file.read_bytes())
    assert promotion["metric"] == "perplexity"
    assert promotion["perplexity"] == json.loads(run.report_file.read_bytes())["perplexity"]
    assert promotion["path"].endswith("/models/gpt/versions/1")


def test_its_version_exported_is_a_gpt2_that_computes_what_the_ranks_computed(run: RunDirectory):
    exported = subprocess.run(
        [sys.executable, "-m", "tasks.export", "--run-directory", str(run.path)],
        cwd=PROJECT,
        env=os.environ | {"SHARDLINE_HOME": str(run.path.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(json.loads(exported.stdout.splitlines()[-1])["output"])
    recorded, compared = np.load(run.reference_logits_file), json.loads(run.report_file.read_bytes())["sharded_logits"]
    config = json.loads((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    found = gpt2_logits(weights, config, recorded["samples"].astype(np.int64))
    greatest = np.abs(recorded["logits"]).max()
    np.testing.assert_allclose(found, recorded["logits"], rtol=0, atol=compared["tolerance"] * greatest)


def test_the_vocabulary_and_the_heads_are_cut_over_the_ranks(run: RunDirectory):
    for rank in range(2):
        saved = read_checkpoint(next((run.checkpoints / f"rank_{rank}").glob("*.ckpt")))
        assert saved["embedding.tokens"].shape == (128, 32)
        assert saved["head.weight"].shape == (32, 128)
        assert saved["moment1.block1.up.weight"].shape == (32, 64)
        assert saved["norm.gamma"].shape == (32,)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"data_source": "mnist"}, "network 'gpt' learns texts: expected data_source 'embedded'"),
        ({"data_source": "text"}, "data_source 'text' needs text_file"),
        ({"world_size": 6}, "expected world_size to be a multiple of tensor_parallel 4, found 6"),
        ({"batch_size": 2000}, "batch_size: expected at most the 1562 training samples, found 2000"),
        ({"network": "mlp", "data_source": "text", "text_file": "text"}, "network 'mlp' learns images of digits"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_before_training(tmp_path: Path, parameters: dict, message: str):
    (tmp_path / "text").write_text("to be or not to be\n" * 1000)
    if "text_file" in parameters:  # in the allowed root of the tests, wherever the checkout lies
        parameters = parameters | {"text_file": str(tmp_path / parameters["text_file"])}
    document = json.dumps(SMALL | {"corpus_size": 50_000} | parameters)
    given = ["--run-directory", str(tmp_path), "--parameters", document]
    finished = run_here(_command_line, given, os.environ | {"SHARDLINE_HOME": str(tmp_path)})
    assert finished.returncode == 2
    assert message in finished.stderr
