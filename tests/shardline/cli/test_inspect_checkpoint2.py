import json
import shutil

import pytest

from shardline.base.errors import MissingShard
from shardline.cli.inspect_command import describe, main, render
from tests.shardline.checkpoint.mindformers import FIXTURES


@pytest.mark.parametrize("path", ["", "iteration_00000012", "iteration_00000012/metadata.json"])
def test_a_folder_an_iteration_and_its_metadata_are_the_same(path):
    described = describe(FIXTURES / "every_rank" / path)
    assert (described["kind"], described["iteration"], len(described["files"])) == ("Checkpoint 2.0", 12, 8)
    tensors = {tensor["name"]: tensor for tensor in described["tensors"]}
    assert tensors["decoder.0.weight"] == {
        "name": "decoder.0.weight",
        "type": "Float32",
        "shape": [4, 6, 8],
        "bytes": 768,
        "cut_into": [2, 1, 2],
        "copies": [1],
        "in": "model",
        "layout": "device matrix [2, 2], tensor map [0, -1, 1]",
    }
    assert tensors["scale"]["layout"] == "whole on every rank"
    assert tensors["global_step"]["in"] == "opt"
    assert described["common"]["global_step"] == 12


def test_other_iterations_and_notices_are_shown(tmp_path):
    folder = shutil.copytree(FIXTURES / "every_rank", tmp_path / "checkpoint")
    shutil.copytree(FIXTURES / "balanced/iteration_00000007", folder / "iteration_00000007")
    (folder / "iteration_00000020").mkdir()
    shown = render(describe(folder)).splitlines()
    assert shown[0] == (
        f"{folder}/iteration_00000012: Checkpoint 2.0, iteration 12, 7 tensors, 4.13 kB in 8 files of 4 ranks, other "
        "iterations: 7, 20 (not saved to its end)"
    )
    assert shown[1].startswith("note: taking iteration 12; iteration_00000020 has no metadata.json")
    assert "embedding.table          BFloat16  [8, 4]     [2, 1]     2       model" in "\n".join(shown)


def test_the_command_prints_json(capsys):
    assert main([str(FIXTURES / "balanced"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iterations"] == [{"number": 7, "complete": True}]


def test_a_killed_save_is_named(tmp_path):
    (tmp_path / "iteration_00000020").mkdir()
    with pytest.raises(MissingShard, match=r"found neither metadata\.json nor slices"):
        describe(tmp_path)
