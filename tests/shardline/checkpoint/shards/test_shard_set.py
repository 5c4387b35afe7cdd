import json
import tracemalloc
from dataclasses import replace

import pytest

from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard, MissingShard
from shardline.checkpoint.shards.shard_set import CHECKPOINT2, ShardSet, SliceFile
from tests.durability import recorded


@pytest.fixture
def shard_set(tmp_path):
    slices = []
    for rank in range(2):
        file = tmp_path / f"rank_{rank}" / "checkpoint-1_20.ckpt"
        file.parent.mkdir()
        file.write_bytes(bytes([rank]) * 10)
        slices.append(SliceFile(rank, f"rank_{rank}/{file.name}", 10, file_digest(file)))
    return ShardSet(2, 20, 1, "s" * 64, "c" * 64, False, tuple(slices))


def test_a_written_set_is_read_again(shard_set, tmp_path):
    path = shard_set.write(tmp_path)
    assert path.name == "shard_set-20.json"
    assert ShardSet.read(path) == shard_set
    shard_set.verify(tmp_path)


def test_a_manifest_is_on_disk_when_it_has_been_written(shard_set, tmp_path):
    with recorded(tmp_path) as durability:
        path = shard_set.write(tmp_path)
    durability.check(path)


def test_the_digest_is_blake3(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    assert file_digest(tmp_path / "x") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_the_newest_is_numerically_newest(shard_set, tmp_path):
    for step in (9, 10, 100, 90):
        ShardSet(**{**vars(shard_set), "step": step}).write(tmp_path)
    assert ShardSet.newest(tmp_path).step == 100
    assert ShardSet.steps(tmp_path) == [9, 10, 90, 100]


def test_a_folder_without_manifests_has_no_newest_set(tmp_path):
    assert ShardSet.newest(tmp_path) is None


def test_a_missing_step_says_which_there_are(shard_set, tmp_path):
    shard_set.write(tmp_path)
    with pytest.raises(MissingShard, match=r"there are those of steps \[20\]"):
        ShardSet.read(ShardSet.path(tmp_path, 30))


def test_a_flipped_bit_names_the_rank(shard_set, tmp_path):
    (tmp_path / "rank_1" / "checkpoint-1_20.ckpt").write_bytes(b"\1" * 9 + b"\3")
    with pytest.raises(CorruptShard, match=r"\(rank 1\): expected the digest"):
        shard_set.verify(tmp_path)


def test_a_truncated_file_names_both_sizes(shard_set, tmp_path):
    (tmp_path / "rank_0" / "checkpoint-1_20.ckpt").write_bytes(b"\0" * 9)
    with pytest.raises(CorruptShard, match=r"\(rank 0\).*says 10 bytes, found 9"):
        shard_set.verify(tmp_path)


def test_swapped_folders_are_recognised(shard_set, tmp_path):
    (tmp_path / "rank_0").rename(tmp_path / "x")
    (tmp_path / "rank_1").rename(tmp_path / "rank_0")
    (tmp_path / "x").rename(tmp_path / "rank_1")
    with pytest.raises(CorruptShard, match="it is the file of rank 1: were folders swapped"):
        shard_set.verify(tmp_path)


def test_a_missing_file_names_the_rank(shard_set, tmp_path):
    (tmp_path / "rank_1" / "checkpoint-1_20.ckpt").unlink()
    with pytest.raises(MissingShard, match="rank 1 at step 20"):
        shard_set.verify(tmp_path)


def test_a_symbolic_link_out_of_the_folder_is_refused(shard_set, tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x"
    file = tmp_path / "rank_1" / "checkpoint-1_20.ckpt"
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(CorruptShard, match="leads out of"):
        shard_set.verify(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"world_size": 3},
        {"world_size": "2"},
        {"step": True},
        {"extra": 1},
        {"slices": []},
        {"slices": [{"rank": 0, "path": "../x", "size": 1, "digest": "0" * 64}], "world_size": 1},
        {"slices": [{"rank": 0, "path": "/x", "size": 1, "digest": "0" * 64}], "world_size": 1},
        {"slices": [{"rank": 0, "path": "x", "size": 1, "digest": "zz"}], "world_size": 1},
        {"slices": None},
    ],
)
def test_a_manifest_that_is_none_is_refused(shard_set, tmp_path, change):
    path = shard_set.write(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CorruptShard, match="manifest"):
        ShardSet.read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"world_size": ' + b"9" * 10_000 + b"}",
        b'{"step": 1, "step": 2}',
        b'{"slices": "ab"}',
        b'{"slices": {"a": 1}}',
        b'{"slices": [[1]]}',
        b"\xff\xfe",
    ],
)
def test_hostile_json_is_one_clear_error(tmp_path, content):
    path = tmp_path / "shard_set-20.json"
    path.write_bytes(content)
    with pytest.raises(CorruptShard, match=r"shard_set-20\.json"):
        ShardSet.read(path)


def test_a_world_size_of_a_thousand_million_takes_no_memory(shard_set, tmp_path):
    path = shard_set.write(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "world_size": 10**9}))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptShard, match=r"each of ranks 0 to 999999999, found ranks \[0, 1\]"):
            ShardSet.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_manifest_is_of_the_step_that_its_name_says(shard_set, tmp_path):
    shard_set.write(tmp_path).rename(tmp_path / "shard_set-30.json")
    with pytest.raises(CorruptShard, match="expected the manifest of step 30, as it is named, found that of step 20"):
        ShardSet.newest(tmp_path)


def test_two_ranks_have_two_files(shard_set, tmp_path):
    path = shard_set.write(tmp_path)
    document = json.loads(path.read_text())
    document["slices"][1]["path"] = document["slices"][0]["path"]
    path.write_text(json.dumps(document))
    with pytest.raises(CorruptShard, match="two ranks have one file"):
        ShardSet.read(path)


def test_names_that_only_look_like_manifests_are_none(shard_set, tmp_path):
    shard_set.write(tmp_path)
    for name in ("shard_set-007.json", "shard_set-٣.json", "shard_set-5.json.bak", "shard_set-.json"):
        (tmp_path / name).write_text("{}")
    assert ShardSet.steps(tmp_path) == [20]


def test_a_folder_named_like_a_manifest_is_refused(tmp_path):
    (tmp_path / "shard_set-20.json").mkdir()
    with pytest.raises(MissingShard, match=r"shard_set-20\.json: there is no such manifest"):
        ShardSet.read(tmp_path / "shard_set-20.json")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"files": "tar"}, "expected files to be 'rank files' or 'checkpoint 2.0', found 'tar'"),
        ({"world_size": 1}, "found one of rank 1"),
    ],
)
def test_a_set_of_checkpoint_2_may_have_several_files_of_a_rank(tmp_path, change, problem):
    items = tuple(SliceFile(rank, f"iteration_00000007/{rank}-{kind}", 1, "0" * 64) for rank in (0, 1) for kind in "ab")
    shard_set = ShardSet(2, 7, 1, "", "", False, items, CHECKPOINT2)
    shard_set.write(tmp_path)
    assert ShardSet.read(tmp_path / "shard_set-7.json") == shard_set
    assert shard_set.own_file(0) is None
    replace(shard_set, **change).write(tmp_path)
    with pytest.raises(CorruptShard, match=problem):
        ShardSet.read(tmp_path / "shard_set-7.json")
