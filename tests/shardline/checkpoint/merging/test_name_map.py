"""MindSpore's map beside several files is their index, at every instant; another model's stays what it is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.parts import Part, commit_parts, plan_parts, write_part
from shardline.checkpoint.merging.request import MergeRequest
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors


@pytest.fixture
def request_(tmp_path):
    save_shards(tmp_path / "shards", tensors())
    strategy = save_strategy(tmp_path / "strategy.ckpt")
    output = tmp_path / "out" / "model.safetensors"
    return MergeRequest(tmp_path / "shards", (strategy,), output, max_file_size=500)


def name_map(request: MergeRequest) -> Path:
    return request.output.with_name("param_name_map.json")


def test_the_map_names_the_same_files_as_the_index(request_):
    for limit in (500, 300):
        merge(replace(request_, max_file_size=limit))
        weight_map = json.loads(name_map(request_).read_bytes())["weight_map"]
        assert set(weight_map) == set(tensors())
        assert all(name_map(request_).with_name(file).is_file() for file in weight_map.values())
        assert name_map(request_).samefile(request_.output.with_name("model.safetensors.index.json"))


def test_a_merge_in_parts_makes_it_too(request_):
    plan_parts(request_)
    write_part(request_.output, Part(1, 1))
    commit_parts(request_.output)
    assert "weight_map" in json.loads(name_map(request_).read_bytes())


def test_it_is_made_again_where_it_is_missing(request_):
    merge(request_)
    name_map(request_).unlink()
    assert merge(request_).was_up_to_date
    assert name_map(request_).exists()


def test_one_file_needs_none_and_takes_it_away(request_):
    merge(request_)
    merge(replace(request_, max_file_size=None))
    assert not name_map(request_).is_symlink()
    assert not name_map(request_).exists()


def test_another_models_map_stays_and_is_said(request_):
    request_.output.parent.mkdir()
    name_map(request_).write_text('{"weight_map": {"w": "part0.safetensors"}}')
    notices = merge(request_).notices
    assert "it is another model's, and stays" in notices[-1]
    assert json.loads(name_map(request_).read_bytes()) == {"weight_map": {"w": "part0.safetensors"}}
    merge(replace(request_, max_file_size=None))
    assert name_map(request_).exists()


def test_a_link_that_leads_nowhere_is_replaced(request_):
    request_.output.parent.mkdir()
    name_map(request_).symlink_to("gone.safetensors.index.json")
    merge(request_)
    assert name_map(request_).samefile(request_.output.with_name("model.safetensors.index.json"))
