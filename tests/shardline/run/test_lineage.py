"""From what a run's model was made, at every point of the run, and read in another's way."""

import json

import pytest
from blake3 import blake3

from benchmarks.run_page.synthetic_run import WORLD_SIZE, Size, write_shard_set
from shardline.base.errors import CorruptShard, RunDirectoryError
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.record_file import Publication, encode_publication, read_record
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory
from shardline.run.lineage import commits_in, digests_in, lineage_in, lineage_of

NOTHING = {"data": None, "start": None, "shard_set": None, "strategies": [], "merged": None, "code": []}


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def run(home) -> RunDirectory:
    run = RunDirectory(home.run("dag", "run"))
    run.path.mkdir(parents=True)
    return run


@pytest.fixture
def trained(run) -> RunDirectory:
    write_shard_set(run, Size(steps=7, parameters=1))
    return run


@pytest.fixture
def merged(trained) -> RunDirectory:
    strategies = (trained.path / "src_strategy.ckpt",)
    output = trained.merged / "model.ckpt"
    merge(MergeRequest(shards=trained.checkpoints, strategies=strategies, output=output, owns_folder=True))
    return trained


def digest_of(path) -> str:
    return blake3(path.read_bytes()).hexdigest()


def test_before_its_first_task_nothing_is_known_of_a_run(home, run):
    place = {"folder": "runs/dag/run", "dag_id": None, "run_id": None}
    assert lineage_of(run, home) == {"format": 1, "run": place, **NOTHING}
    assert digests_in(lineage_of(run, home)) == {}
    assert commits_in(lineage_of(run, home)) == {}


def test_before_the_merge_the_newest_shard_set_counts_with_its_strategy(home, trained):
    found = lineage_of(trained, home)
    manifest = ShardSet.path(trained.checkpoints, 7)
    assert found["shard_set"] == {"step": 7, "epoch": 1, "world_size": WORLD_SIZE, "digest": digest_of(manifest)}
    assert found["strategies"] == [digest_of(trained.path / "src_strategy.ckpt")]
    assert found["merged"] is None


def test_after_the_merge_the_set_that_was_merged_counts_and_not_a_newer_one(home, merged):
    manifest = ShardSet.path(merged.checkpoints, 7)
    document = json.loads(manifest.read_bytes()) | {"step": 8, "strategy_digest": "0" * 64}
    ShardSet.path(merged.checkpoints, 8).write_text(json.dumps(document))
    found = lineage_of(merged, home)
    assert (found["shard_set"]["step"], found["shard_set"]["digest"]) == (7, digest_of(manifest))
    assert found["strategies"] == [digest_of(merged.path / "src_strategy.ckpt")]
    assert found["merged"]["digest"] == digest_of(merged.merged / "model.ckpt")
    assert lineage_in(json.dumps(found).encode()) == found


def test_what_housekeeping_freed_leaves_the_rest_known(home, merged):
    ShardSet.path(merged.checkpoints, 7).unlink()
    found = lineage_of(merged, home)
    assert found["shard_set"] is None
    assert set(digests_in(found)) == {"strategy", "merged"}


def test_in_the_middle_of_a_publication_the_output_that_is_there_counts(home, merged):
    record = read_record(merged.merge_file)
    older = record | {"output": [record["output"][0] | {"digest": "0" * 64}]}
    merged.merge_file.write_bytes(encode_publication(Publication(older, replaced_by=record)))
    assert lineage_of(merged, home)["merged"]["digest"] == record["output"][0]["digest"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dataset.json", RunDirectoryError),
        ("start.json", RunDirectoryError),
        ("code.json", RunDirectoryError),
        ("run.json", RunDirectoryError),
        ("src_checkpoints/shard_set-7.json", RunDirectoryError),
        ("merged/model.ckpt.merge.json", CorruptShard),
    ],
)
@pytest.mark.parametrize("content", ["", "[]", "\x00"])
def test_a_damaged_file_is_named(home, merged, name, kind, content):
    (merged.path / name).write_text(content)
    with pytest.raises(kind, match=name.rpartition("/")[2]):
        lineage_of(merged, home)


@pytest.mark.parametrize("change", [{"format": 2}, {"data": []}, {"code": {}}, {"strategies": "x"}])
def test_a_lineage_of_another_shape_is_none(home, run, change):
    document = lineage_of(run, home) | change
    with pytest.raises((ValueError, TypeError)):
        lineage_in(json.dumps(document).encode())
