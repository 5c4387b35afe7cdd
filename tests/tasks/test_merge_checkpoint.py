"""Merging any shard set with any option: what is read, what is refused, what comes out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError, CorruptShard, MissingShard, RunDirectoryError
from shardline.base.progress import Meter
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.formats.tensor_types import CASTS
from shardline.checkpoint.strategy.layout import Layout
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.run.merge_on_request import merge_checkpoint
from shardline.run.readers import reading, without_readers
from shardline.run.slices_to_merge import merge_run
from shardline.settings.merge_config import RECORD_TYPES, MergeCheckpointConfig
from shardline.settings.run_config import RunConfig
from tests.shardline.checkpoint.mindformers import FIXTURES
from tests.shardline.checkpoint.sharding import SHAPES, save_manifest, save_shards, save_strategy, tensors

RUN = "sharded_training/manual__2026-01-31T09:00:00"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def trained(home: Home) -> RunDirectory:
    """A run of `sharded_training` with one complete shard set, at step 20."""
    run = RunDirectory(home.run(*RUN.split("/", 1)))
    run.path.mkdir(parents=True)
    config = RunConfig()
    run.write_config(config)
    strategy = save_strategy(run.strategy_file(config))
    save_shards(run.checkpoints, tensors())
    save_manifest(run.checkpoints, strategy)
    return run


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Slices of somebody else's training, without a manifest, and their strategy file."""
    folder = tmp_path / "elsewhere" / "slices"
    save_shards(folder, tensors(1))
    save_strategy(folder.parent / "strategy.ckpt")
    return folder


@pytest.fixture
def merge(home: Home):
    """Merge with the given parameters, as if SHARDLINE_ALLOWED_ROOTS were `roots`."""

    def run(*roots: Path, **parameters: object) -> dict:
        environment = {"SHARDLINE_ALLOWED_ROOTS": os.pathsep.join(map(str, roots))}
        config = MergeCheckpointConfig.from_json(json.dumps(parameters, default=str))
        directory = RunDirectory(home.run("merge_checkpoint", "manual__1"))
        directory.path.mkdir(parents=True, exist_ok=True)
        return merge_checkpoint(directory, home, AllowedRoots.of(home, environment), config, Meter())

    return run


def test_a_run_is_merged_as_the_pipeline_does(home, trained, merge):
    result = merge(run=RUN)
    assert result["merged_file"] == str(home.run("merge_checkpoint", "manual__1") / "merged" / "model.ckpt")
    assert result["digest"] == merge_run(trained)["digest"]
    assert result["step"] == "20"
    assert merge(run=RUN) == result  # cleared and run again


def test_a_run_is_found_by_its_id_alone_as_airflow_shows_it(home, trained, merge):
    run_id = RUN.partition("/")[2]
    assert merge(run=run_id) == merge(run=RUN)
    other = RunDirectory(home.run("retraining", run_id))
    shutil.copytree(trained.path, other.path)
    with pytest.raises(ConfigError, match=r"several DAGs have a run .*: retraining, sharded_training; put its DAG"):
        merge(run=run_id)
    assert merge(run=RUN)["step"] == "20"
    with pytest.raises(ConfigError, match=r"as Airflow shows it, or DAG/RUN, found 'manual__\*': no run of that id"):
        merge(run="manual__*")


def test_options_decide_what_comes_out(trained, merge):
    result = merge(
        run=RUN, step="20", name="half", format="safetensors", weights_only=True, dtype="float16", exclude=["layer1.b*"]
    )
    assert Path(result["merged_file"]).name == "half.safetensors"
    merged = read_checkpoint(Path(result["merged_file"]))
    assert {name: array.dtype for name, array in merged.items()} == {
        "layer1.weight": np.float16,
        "layer3.weight": np.float16,
    }


def test_a_large_output_is_split(trained, merge):
    result = merge(run=RUN, name="parts", format="safetensors", max_file_size="500B")
    files = sorted(path.name for path in Path(result["merged_file"]).parent.glob("parts*"))
    assert len(files) > 2
    assert "parts.safetensors.index.json" in files


def test_slices_for_another_strategy(trained, merge, tmp_path):
    layouts = {name: Layout((2,), ((0,), *((),) * (len(shape) - 1))) for name, shape in SHAPES.items()}
    target = save_strategy(tmp_path / "target.ckpt", layouts)
    for _ in range(2):  # the second time as after a clear
        result = merge(tmp_path, run=RUN, target_strategy=[target])
    assert result["ranks"] == 2
    second = read_checkpoint(next(Path(result["folder"]).glob("rank_1/*.ckpt")))
    assert np.array_equal(second["layer1.weight"], tensors()["layer1.weight"][6:])


def test_rules_rename_what_comes_out(trained, merge, tmp_path):
    rules = tmp_path / "rules.txt"
    rules.write_text("layer1\\.(.*) = first.\\1\n")
    result = merge(tmp_path, run=RUN, weights_only=True, rename=rules)
    assert sorted(read_checkpoint(Path(result["merged_file"]))) == ["first.bias", "first.weight", "layer3.weight"]
    with pytest.raises(ConfigError, match="rename: expected a path below"):
        merge(run=RUN, rename=rules)
    rules.write_text("secret")
    with pytest.raises(ConfigError, match=r"rules.txt:1: expected PATTERN = REPLACEMENT") as raised:
        merge(tmp_path, run=RUN, rename=rules)
    assert "secret" not in str(raised.value)


def test_a_folder_of_checkpoint2_needs_no_strategy(merge, tmp_path):
    shutil.copytree(FIXTURES / "balanced", tmp_path / "checkpoint")
    result = merge(tmp_path, shards=tmp_path / "checkpoint", weights_only=True)
    assert result["step"] == "7"
    assert "adam_m.it's" not in read_checkpoint(Path(result["merged_file"]))


def test_another_folder_needs_one(foreign, merge):
    with pytest.raises(ConfigError, match="which strategy"):
        merge(foreign.parent, shards=foreign)


def test_a_foreign_folder_below_an_allowed_root(foreign, merge):
    result = merge(foreign.parent, shards=foreign, strategy=[foreign.parent / "strategy.ckpt"])
    merged = read_checkpoint(Path(result["merged_file"]))
    assert all(np.array_equal(merged[name], array) for name, array in tensors(1).items())


def test_nothing_outside_the_allowed_roots_is_read(foreign, merge, tmp_path):
    strategy = foreign.parent / "strategy.ckpt"
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(foreign)
    save_shards(allowed / "slices", tensors(1))
    save_strategy(allowed / "strategy.ckpt")
    hidden = allowed / "slices" / "rank_3" / "checkpoint-1_20.ckpt"
    hidden.unlink()
    for shards, strategies, where in (
        (foreign, [strategy], "shards: expected a path below"),
        (allowed / "link", [allowed / "strategy.ckpt"], f"shards: .* found {allowed}/link, which is {foreign}; add"),
        (allowed / ".." / "elsewhere" / "slices", [allowed / "strategy.ckpt"], "shards: expected a path below"),
        ("/etc", [allowed / "strategy.ckpt"], "shards: expected a path below"),
        ("slices", [allowed / "strategy.ckpt"], "shards: expected an absolute path, found 'slices'"),
        (allowed / "slices", [strategy], "strategy: expected a path below"),
        (allowed / "none", [strategy], "shards: there is no"),
    ):
        with pytest.raises(ConfigError, match=where):
            merge(allowed, shards=shards, strategy=strategies)
    hidden.symlink_to(foreign / "rank_3" / "checkpoint-1_20.ckpt")
    with pytest.raises(CorruptShard, match="a symbolic link that leads out of"):
        merge(allowed, shards=allowed / "slices", strategy=[allowed / "strategy.ckpt"])


def test_a_run_that_leads_elsewhere_is_no_run(home, foreign, merge):
    with pytest.raises(ConfigError, match=r"run: expected the id of a run .* or DAG/RUN, found '\.\./elsewhere'"):
        merge(run="../elsewhere")
    run = home.run("sharded_training", "1")
    run.mkdir(parents=True)
    (run / "src_checkpoints").symlink_to(foreign)
    with pytest.raises(ConfigError, match=f"run: expected a path below .* which is {foreign}"):
        merge(run="sharded_training/1")


def test_a_step_that_is_not_there_is_named(trained, merge):
    with pytest.raises(MissingShard, match=r"shard_set-19\.json"):
        merge(run=RUN, step="19")
    with pytest.raises(ConfigError, match="step: expected the global step of one of the run's shard sets, found '1_2'"):
        merge(run=RUN, step="1_2")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "run and shards: give one of them"),
        ({"run": "a/b", "shards": "/x", "strategy": ["/s"]}, "run and shards: give one of them"),
        ({"run": "a/b", "strategy": ["/s"]}, "strategy: a run knows its own"),
        ({"run": "a/b", "integrated": True}, "integrated: a run's manifest"),
        ({"run": "a/b", "max_file_size": "5GB"}, "max_file_size: only .safetensors"),
        ({"run": "a/b", "max_file_size": "much", "format": "safetensors"}, "max_file_size: "),
        ({"run": "a/b", "crc": True, "format": "safetensors"}, "crc: only a .ckpt"),
        ({"run": "a/b", "crc": True, "target_strategy": ["/t"]}, "crc: not with target_strategy"),
        ({"run": "a/b", "proof": False, "target_strategy": ["/t"]}, "proof: .* always proved"),
        ({"run": "a/b", "name": "../../x"}, "name: .*letters, digits"),
        ({"run": "a/b", "dtype": "int8"}, "dtype: "),
        ({"rnu": "a/b"}, "rnu: unknown parameter; known are run, shards"),
    ],
)
def test_wrong_parameters_and_combinations_are_refused_by_name(parameters: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        MergeCheckpointConfig.from_json(json.dumps(parameters))


def test_the_form_offers_every_cast_that_the_merge_can_do():
    assert list(RECORD_TYPES) == list(CASTS)
    dtype = MergeCheckpointConfig.form_schema()["dtype"]
    assert dtype["enum"] == [*get_args(get_args(MergeCheckpointConfig.model_fields["dtype"].annotation)[0]), None]


def test_a_run_that_is_read_is_known_to_be(trained):
    with (
        reading(trained.path),
        reading(trained.path),
        pytest.raises(RunDirectoryError, match="is being read"),
        without_readers(trained.path),
    ):
        raise AssertionError("two tasks read it")
    with without_readers(trained.path):
        pass


def test_the_command_reads_its_parameters_from_the_environment(home, trained):
    parameters = {"run": RUN, "weights_only": True, "name": "weights"}
    finished = subprocess.run(
        [sys.executable, "-m", "tasks.merge_checkpoint"],
        cwd=PROJECT,
        env=os.environ
        | {
            "SHARDLINE_HOME": str(home.path),
            "SHARDLINE_DAG_ID": "merge_checkpoint",
            "SHARDLINE_RUN_ID": "manual__1",
            "SHARDLINE_PARAMETERS": json.dumps(parameters),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["digest"] == file_digest(Path(result["merged_file"]))
    assert json.loads((home.run("merge_checkpoint", "manual__1") / "config.json").read_bytes())["name"] == "weights"
