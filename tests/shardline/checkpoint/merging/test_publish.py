"""An output and its record are one thing: at every instant the old pair or the new one, wherever a merge ends."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shardline.base.errors import CheckpointError, MissingShard, OutputError
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging import verify as verifying
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.publish import main_digest, settle
from shardline.checkpoint.merging.record_file import (
    Publication,
    encode_publication,
    find_record,
    read_publication,
    read_record,
    record_path,
)
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.verify import verify
from tests.durability import recorded
from tests.shardline.checkpoint.merging.killing import SCENARIOS
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors

PROJECT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("scenario", "how"),
    [
        *((scenario, "killed") for scenario in SCENARIOS),
        *((scenario, "full") for scenario in ("another", "fewer", "one_becomes_several", "several_in_parts")),
    ],
)
def test_wherever_a_merge_ends_one_whole_output_and_its_record_lie_there(tmp_path, scenario, how):
    """Killed, or refused by the disk, before every open, write, rename, removal and fsync."""
    command = [sys.executable, "-m", "tests.shardline.checkpoint.merging.killing", scenario, str(tmp_path), how]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def request_(tmp_path):
    for seed in (0, 1):
        save_shards(tmp_path / f"shards{seed}", tensors(seed))
    strategy = save_strategy(tmp_path / "strategy.ckpt")
    (tmp_path / "out").mkdir()
    return MergeRequest(tmp_path / "shards0", (strategy,), tmp_path / "out" / "model.safetensors")


def other(request: MergeRequest) -> MergeRequest:
    return replace(request, shards=request.shards.with_name("shards1"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"max_file_size": 500}])
def test_what_is_published_survives_a_power_failure(request_, options):
    """Both records are on disk before the first file has its name, and the deciding file before the record has its."""
    out = request_.output.parent
    with recorded(out) as durability:
        record = merge(replace(request_, **options)).record
    main, *parts = [out / item["name"] for item in record["output"]]
    durability.check(main, *parts, record_path(request_.output))
    durability.check_order(main, record_path(request_.output))
    for part in parts:
        durability.check_order(part, main)


def test_nothing_of_the_old_output_goes_before_the_new_one_is_on_disk(request_):
    request = replace(request_, max_file_size=500)
    old = merge(request).record
    with recorded(request.output.parent) as durability:
        merge(other(request))
    index = request.output.with_name(old["output"][0]["name"])
    named = durability.durable_since(index)
    for item in old["output"][1:]:
        removed = [event.path for event in durability.events].index(index.with_name(item["name"]))
        assert named < removed


def test_a_smaller_model_leaves_no_file_of_the_larger_one(request_):
    merge(replace(request_, max_file_size=300))
    record = merge(replace(other(request_), max_file_size=2000)).record
    expected = [item["name"] for item in record["output"]]
    expected += ["model.safetensors.merge.json", "param_name_map.json"]
    assert names(request_.output.parent) == sorted(expected)


def interrupted(request: MergeRequest) -> tuple[dict, dict]:
    """Two records, and the folder as it is when a second merge has named its file, but not its record."""
    old = merge(request).record
    new = merge(other(request)).record
    record_path(request.output).write_bytes(encode_publication(Publication(dict(old), dict(new))))
    return dict(old), dict(new)


def test_a_publication_is_finished_where_the_new_output_is_there(request_):
    _, new = interrupted(request_)
    assert read_record(record_path(request_.output)) == new
    assert verify(request_.output) == new
    settle(request_.output, record_path(request_.output))
    assert read_publication(record_path(request_.output)) == Publication(new)


def test_a_publication_is_taken_back_where_the_old_output_is_there(request_):
    old, new = interrupted(request_)
    merge(replace(request_, output=request_.output.with_name("again.safetensors"))).output.replace(request_.output)
    assert verify(request_.output) == old
    settle(request_.output, record_path(request_.output))
    assert read_publication(record_path(request_.output)) == Publication(old)
    assert main_digest(old) != main_digest(new)


def test_a_first_publication_without_its_output_leaves_nothing(request_):
    record = merge(request_).record
    path = record_path(request_.output)
    path.write_bytes(encode_publication(Publication(None, dict(record))))
    assert verify(request_.output) == record
    request_.output.unlink()
    with pytest.raises(MissingShard, match="interrupted before its output had its name; merge again"):
        read_record(path)
    settle(request_.output, path)
    assert names(path.parent) == []


def test_a_file_that_was_never_a_merge_s_stays_when_a_first_publication_is_taken_back(request_):
    path = record_path(request_.output)
    record = merge(request_).record
    path.write_bytes(encode_publication(Publication(None, dict(record))))
    request_.output.write_bytes(b"somebody else's")
    settle(request_.output, path)
    assert names(path.parent) == ["model.safetensors"]


def test_verify_finds_a_merge_that_is_published_meanwhile(request_, monkeypatch):
    """The record was read before, the file after: not damage, but another output."""
    merge(request_)
    genuine, published = verifying.read_contents, []

    def publish_first(path, pieces):
        if not published:
            published.append(merge(other(request_)).record)
        return genuine(path, pieces)

    monkeypatch.setattr(verifying, "read_contents", publish_first)
    assert verify(request_.output) == published[0]


def test_the_record_of_an_earlier_shardline_is_read_and_replaced(request_):
    merge(request_)
    earlier = record_path(request_.output).rename(request_.output.with_name("merge.json"))
    assert find_record(request_.output) == earlier
    assert verify(request_.output)["options"]["output"] == "model.safetensors"
    merge(request_)
    assert names(earlier.parent) == ["model.safetensors", "model.safetensors.merge.json"]


def test_the_earlier_record_of_another_output_stays(request_):
    merge(request_)
    earlier = record_path(request_.output).rename(request_.output.with_name("merge.json"))
    merge(replace(request_, output=request_.output.with_name("other.ckpt")))
    assert earlier.exists()
    assert verify(request_.output)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "part"])
def test_any_of_several_files_leads_to_their_record(request_, name):
    record = merge(replace(request_, max_file_size=500)).record
    file = record["output"][1]["name"] if name == "part" else name
    assert verify(request_.output.with_name(file)) == record


def record_with(**changes: object) -> str:
    file = {"name": "model.safetensors", "size": 1, "digest": ""}
    return json.dumps({"format": 1, "output": [file], "inputs": {}, "options": {}, "tensors": []} | changes)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "3",
        '{"format": 1}',
        '{"format": 1, "replaced_by": {}}',
        '{"format": 1, "replaced_by": 3}',
        record_with(output=[]),
        record_with(output=[3]),
        record_with(output=[{"name": "x", "size": "1", "digest": ""}]),
        record_with(output=[{"name": "..", "size": 1, "digest": ""}]),
        record_with(output=[{"name": "../x", "size": 1, "digest": ""}]),
        record_with(tensors=[3]),
        record_with(tensors=[{}]),
        record_with(options=[]),
    ],
)
def test_a_hostile_record_is_one_clear_error_and_is_replaced(request_, content):
    path = record_path(request_.output)
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        verify(request_.output)
    merge(request_)
    assert verify(request_.output)


def test_extents_that_lie_outside_or_over_one_another_are_refused(request_):
    merge(request_)
    path = record_path(request_.output)
    genuine = json.loads(path.read_bytes())
    for extents in ([[0, 10**9]], [[-1, 4]], [[0, 10], [5, 10]], [["0", 4]], [[True, 4]], [[0]], 3):
        record = json.loads(path.read_bytes())
        record["tensors"][0]["extents"] = extents
        path.write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match="this is no record of a merge"):
            verify(request_.output)
        path.write_text(json.dumps(genuine))


def test_an_old_record_that_cannot_be_read_stops_the_merge_before_anything_changes(request_, monkeypatch):
    merge(request_)
    before = {path: path.read_bytes() for path in request_.output.parent.iterdir()}
    genuine = Path.read_bytes

    def refuse(path):
        if path == record_path(request_.output):
            raise PermissionError(13, "Permission denied")
        return genuine(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        with pytest.raises((MissingShard, OutputError), match="Permission denied"):
            merge(other(request_))
    assert {path: path.read_bytes() for path in request_.output.parent.iterdir()} == before


def test_the_published_tensors_are_those_of_the_slices(request_):
    merged = read_checkpoint(merge(request_).output)
    assert all((merged[name] == array).all() for name, array in tensors().items())
