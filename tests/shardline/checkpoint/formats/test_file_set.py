"""An integrated checkpoint in several files: ours, Hugging Face's, and MindSpore's `unified_safetensors`."""

import json
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import CorruptShard, MissingShard, UnsupportedFormat
from shardline.checkpoint.formats.checkpoint_file import read_integrated, write_checkpoint
from shardline.checkpoint.formats.file_set import read_file_set

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7, 8], np.int32), "c": np.float32(0.5)}
FILES = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def hugging_face(folder: Path) -> Path:
    for name, file in FILES.items():
        write_checkpoint({name: ARRAYS[name]}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": FILES}))
    (folder / "config.json").write_text("{}")
    return index


def unified(folder: Path, plain: bool = False) -> Path:
    """As MindSpore's `unified_safetensors` leaves it; older versions have no `weight_map` around the names."""
    write_checkpoint({"a": ARRAYS["a"]}, folder / "part0.safetensors")
    write_checkpoint({"b": ARRAYS["b"]}, folder / "part1.safetensors")
    write_checkpoint({"c": ARRAYS["c"]}, folder / "hyper_param.safetensors")
    names = {"a": "part0.safetensors", "b": "part1.safetensors"}
    document = names if plain else {"metadata": {"total_size": 32}, "weight_map": names}
    (folder / "param_name_map.json").write_text(json.dumps(document, indent=4))
    return folder / "param_name_map.json"


def check(path: Path, names: str) -> None:
    found = read_integrated(path)
    assert list(found) == list(names)
    assert len(found) == len(names)
    for name in names:
        assert np.array_equal(found[name], ARRAYS[name])


def test_a_hugging_face_folder_is_read_by_its_index(tmp_path):
    index = hugging_face(tmp_path)
    check(index, "ab")
    check(tmp_path, "ab")


@pytest.mark.parametrize("plain", [False, True])
def test_a_unified_folder_is_read_with_its_hyper_parameters(tmp_path, plain):
    name_map = unified(tmp_path, plain)
    check(name_map, "abc")
    check(tmp_path, "abc")


def test_files_behind_symbolic_links_are_read(tmp_path):
    """As in the Hugging Face hub's cache, whose snapshots hold links to blobs without a suffix."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    hugging_face(tmp_path)
    for number, file in enumerate(FILES.values()):
        (tmp_path / file).rename(tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot" / file).symlink_to(tmp_path / "blobs" / str(number))
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / "snapshot" / "model.safetensors.index.json")
    check(tmp_path / "snapshot", "ab")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_single_file_is_a_set_of_one(tmp_path, suffix):
    write_checkpoint({"a": ARRAYS["a"]}, tmp_path / f"model.{suffix}")
    (tmp_path / "README.md").write_text("")
    check(tmp_path / f"model.{suffix}", "a")
    check(tmp_path, "a")


def test_tensors_beside_those_that_an_index_names_belong_to_the_model(tmp_path):
    index = hugging_face(tmp_path)
    write_checkpoint({"a": ARRAYS["a"], "c": ARRAYS["c"]}, tmp_path / FILES["a"])
    check(index, "acb")


@pytest.mark.parametrize("kind", [hugging_face, unified])
def test_one_of_several_files_is_refused_with_the_index_to_give(tmp_path, kind):
    index = kind(tmp_path)
    for file in set(json.loads(index.read_text())["weight_map"].values()):
        with pytest.raises(UnsupportedFormat, match=rf"one of several files.*give the index, {index}"):
            read_file_set(tmp_path / file)


def test_a_single_part_with_hyper_parameters_beside_it_is_not_the_whole_model(tmp_path):
    write_checkpoint({"a": ARRAYS["a"]}, tmp_path / "part0.safetensors")
    write_checkpoint({"c": ARRAYS["c"]}, tmp_path / "hyper_param.safetensors")
    (tmp_path / "param_name_map.json").write_text('{"weight_map": {"a": "part0.safetensors"}}')
    for file in ("part0", "hyper_param"):
        with pytest.raises(UnsupportedFormat, match=r"one of several files.*param_name_map\.json"):
            read_file_set(tmp_path / f"{file}.safetensors")
    check(tmp_path, "ac")


def test_one_of_several_files_is_known_by_its_name_without_the_index(tmp_path):
    hugging_face(tmp_path).unlink()
    with pytest.raises(UnsupportedFormat, match="one of several files"):
        read_file_set(tmp_path / FILES["a"])
    write_checkpoint({"a": ARRAYS["a"]}, tmp_path / "whole-00001-of-00001.safetensors")
    check(tmp_path / "whole-00001-of-00001.safetensors", "a")


def test_a_broken_index_that_nobody_asked_for_does_not_matter(tmp_path):
    write_checkpoint({"a": ARRAYS["a"]}, tmp_path / "model.safetensors")
    (tmp_path / "other.safetensors.index.json").write_text("[")
    check(tmp_path / "model.safetensors", "a")


def test_an_index_of_another_model_is_refused(tmp_path):
    index = hugging_face(tmp_path)
    write_checkpoint({"x": ARRAYS["a"]}, tmp_path / FILES["a"])
    with pytest.raises(CorruptShard, match=r"says that model-00001-of-00002.safetensors holds 'a', but"):
        read_file_set(index)
    (tmp_path / FILES["a"]).unlink()
    with pytest.raises(MissingShard, match=r"model.safetensors.index.json names it, but it is not there"):
        read_file_set(index)


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[]",
        b"",
        b"[" * 100_000,
        b'{"weight_map": {}}',
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "../model.safetensors"}}',
        b'{"weight_map": {"a": "/model.safetensors"}}',
        b'{"weight_map": {"a": "model.txt"}}',
        b'{"weight_map": {"a": "\\u0000.safetensors"}}',
        b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
        b'{"weight_map": ' + b"9" * 10_000 + b"}",
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "param_name_map.json"])
def test_what_is_no_index_is_one_clear_error(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptShard, match=name):
        read_file_set(tmp_path / name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "found nothing"),
        (["rank_0", "rank_1"], "these are slices: give them as --shards"),
        (["pytorch_model.bin"], "save the model as .safetensors"),
        (["notes.txt"], "found notes.txt; give a .ckpt"),
        (["a.ckpt", "b.ckpt"], "holds 2 checkpoint files and no index: a.ckpt, b.ckpt; give one of them"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], "holds 2 indexes"),
    ],
)
def test_a_folder_that_holds_no_single_model_is_named(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UnsupportedFormat, match=message):
        read_file_set(tmp_path)


def test_nothing_is_named(tmp_path):
    with pytest.raises(MissingShard, match="there is no such checkpoint"):
        read_file_set(tmp_path / "x.ckpt")
