"""What each task reads and writes, whatever the run is and whatever became of it."""

import json
from pathlib import Path

import pytest
from blake3 import blake3

from benchmarks.run_page.synthetic_run import WORLD_SIZE, Size, write_run
from shardline.base.progress import Meter
from shardline.checkpoint.strategy.layout import Layout
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.directory import Home, RunDirectory
from shardline.run.lineage_datasets import Dataset, Datasets, datasets_of
from shardline.run.merge_on_request import merge_checkpoint
from shardline.settings.merge_config import MergeCheckpointConfig
from shardline.settings.run_config import RunConfig
from shardline.store.promotion import promote
from tests.shardline.checkpoint.sharding import save_strategy

DATA = {"digest": "d" * 64, "source": "mnist", "directory": "/shared/data/mnist-1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def run(home) -> RunDirectory:
    """A run of 7 steps, merged, validated and promoted."""
    run = write_run(home.run("dag", "run"), Size(steps=7, parameters=1, log_lines=1), model_name="digits")
    run.dataset_file.write_text(json.dumps(DATA))
    promote(run, home)
    return run


@pytest.fixture
def own(tmp_path) -> tuple[RunDirectory, Home]:
    home = Home(tmp_path)
    run = RunDirectory(home.run("dag", "own"))
    run.path.mkdir(parents=True)
    return run, home


def digest_of(path: Path) -> str:
    return blake3(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def expected(run, home) -> dict[str, Dataset]:
    manifest = json.loads((run.checkpoints / "shard_set-7.json").read_bytes())
    strategy, merged = digest_of(run.path / "src_strategy.ckpt"), run.merged / "model.ckpt"
    digest, size = digest_of(merged), merged.stat().st_size
    place = home.models / "digits" / "versions" / "1"
    return {
        "data": Dataset("data", DATA["directory"], DATA["digest"], facts={"source": "mnist"}),
        "slices": Dataset(
            "slices",
            str(run.checkpoints),
            digest_of(run.checkpoints / "shard_set-7.json"),
            sum(item["size"] for item in manifest["slices"]),
            WORLD_SIZE,
            {"step": 7, "epoch": 1, "world_size": WORLD_SIZE, "strategy": strategy},
        ),
        "merged": Dataset("merged", str(merged), digest, size, 1, {"step": "7", "strategies": [strategy]}),
        "version": Dataset(
            "version",
            str(place),
            digest,
            size,
            facts={"model": "digits", "version": 1, "metric": "accuracy", "value": 0.948},
        ),
    }


@pytest.mark.parametrize(
    ("task", "sides"),
    [
        ("prepare_dataset", ([], ["data"])),
        ("train", (["data"], ["slices"])),
        ("merge", (["slices"], ["merged"])),
        ("merge.commit", (["slices"], ["merged"])),
        ("validate", (["merged", "data"], [])),
        ("promote", (["merged"], ["version"])),
        ("upload", (["version"], [])),
        ("merge.write", ([], [])),
        ("approve", ([], [])),
    ],
)
def test_a_task_reads_and_writes(run, home, expected, task, sides):
    inputs, outputs = (tuple(expected[name] for name in names) for names in sides)
    assert datasets_of(task, run, home) == Datasets(inputs, outputs)


def test_an_export_is_a_folder_beside_the_versions(run, home, expected):
    assert datasets_of("export", run, home) == Datasets((expected["version"],))
    folder = home.models / "digits" / "exports" / "1"
    folder.mkdir(parents=True)
    exported = Dataset("exported", str(folder), facts=expected["version"].facts)
    assert datasets_of("export", run, home) == Datasets((expected["version"],), (exported,))


@pytest.mark.parametrize("task", ["prepare_dataset", "train", "merge", "validate", "promote", "upload", "export"])
def test_of_a_run_whose_tasks_have_left_nothing_nothing_is_said(own, task):
    assert datasets_of(task, *own) == Datasets()


def test_a_place_in_an_object_storage_is_named_without_its_connection(run, home):
    before = run.config_file.read_bytes()
    run.config_file.write_text(json.dumps(json.loads(before) | {"upload_to": "s3://prod@models/team/"}))
    try:
        (uploaded,) = datasets_of("upload", run, home).outputs
    finally:
        run.config_file.write_bytes(before)
    assert uploaded.place == "s3://models/team/digits/1"
    assert uploaded.digest == digest_of(run.merged / "model.ckpt")


def test_a_version_that_another_merge_of_the_run_or_another_run_made_is_none_of_its_outputs(run, home):
    before = run.promotion_file.read_bytes()
    promotion = json.loads(before)
    try:
        for change in ({"new": False}, {"digest": "0" * 64}):
            run.promotion_file.write_text(json.dumps(promotion | change))
            assert datasets_of("promote", run, home).outputs == ()
    finally:
        run.promotion_file.write_bytes(before)


@pytest.mark.parametrize("start", ["version", "run", "file"])
def test_what_training_began_with_is_an_input(own, run, home, expected, start):
    follower, _ = own
    document, found = {
        "version": (
            {"model": "digits", "version": 1, "digest": expected["version"].digest},
            Dataset(
                "version",
                expected["version"].place,
                expected["version"].digest,
                facts={"model": "digits", "version": 1},
            ),
        ),
        "run": ({"run": str(run.path), "step": 7, "digest": expected["slices"].digest}, expected["slices"]),
        "file": ({"file": "/weights/model.ckpt"}, Dataset("files", "/weights/model.ckpt")),
    }[start]
    follower.start_file.write_text(json.dumps(document))
    assert datasets_of("train", follower, home).inputs == (found,)


def test_data_that_a_training_reads_by_itself_is_named_without_a_digest(own):
    follower, home = own
    follower.write_config(RunConfig(data_source="directory", data_directory="/data/digits"))
    assert datasets_of("train", follower, home).inputs == (Dataset("files", "/data/digits"),)
    assert datasets_of("prepare_dataset", follower, home).inputs == (Dataset("files", "/data/digits"),)


@pytest.mark.parametrize("given", ["run", "folder"])
def test_a_merge_on_request_reads_another_run_s_slices_or_a_folder_s(own, run, home, expected, given):
    follower, _ = own
    parameters = {
        "run": {"run": "dag/run"},
        "folder": {"shards": str(run.checkpoints), "strategy": [str(run.path / "src_strategy.ckpt")]},
    }[given]
    config = MergeCheckpointConfig.from_json(json.dumps(parameters))
    merge_checkpoint(follower, home, AllowedRoots.of(home, {}), config, Meter())
    found = datasets_of("merge_checkpoint", follower, home)
    assert found.inputs == (expected["slices"],)
    (merged,) = found.outputs
    assert (merged.kind, merged.digest) == ("merged", digest_of(follower.merged / "model.ckpt"))


def test_resharded_slices_have_the_digest_of_their_manifest(own, run, home, expected):
    follower, _ = own
    names = ("block0.weight", "moment1.block0.weight", "moment2.block0.weight")
    save_strategy(follower.path / "target.ckpt", {name: Layout((2,), ((), (0,))) for name in names})
    parameters = {"run": "dag/run", "target_strategy": [str(follower.path / "target.ckpt")]}
    config = MergeCheckpointConfig.from_json(json.dumps(parameters))
    roots = AllowedRoots.of(home, {"SHARDLINE_ALLOWED_ROOTS": str(follower.path)})
    merge_checkpoint(follower, home, roots, config, Meter())
    found = datasets_of("merge_checkpoint", follower, home)
    assert found.inputs == (expected["slices"],)
    (slices,) = found.outputs
    assert (slices.place, slices.files) == (str(follower.resharded), 2)
    assert slices.digest == digest_of(follower.resharded / "shard_set-7.json")
