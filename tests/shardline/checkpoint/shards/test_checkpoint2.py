import json
import shutil
from pathlib import Path

import pytest

from shardline.base.errors import CheckpointError, ConfigError, CorruptShard, LayoutError, MissingShard
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.shards.checkpoint2 import find_iteration, is_checkpoint2, plan_checkpoint2
from shardline.checkpoint.shards.selection import Selection
from tests.shardline.checkpoint.mindformers import FIXTURES


@pytest.fixture
def saved(tmp_path):
    """A folder `checkpoint` of iterations 7 and 12, where the hint says 12."""
    shutil.copytree(FIXTURES / "every_rank", tmp_path / "checkpoint")
    shutil.copytree(FIXTURES / "balanced/iteration_00000007", tmp_path / "checkpoint/iteration_00000007")
    return tmp_path / "checkpoint"


@pytest.fixture
def balanced(tmp_path):
    """One iteration whose slices were saved once each."""
    return Path(shutil.copytree(FIXTURES / "balanced/iteration_00000007", tmp_path / "iteration_00000007"))


def plan(folder: Path, **selection: object):
    return plan_checkpoint2(find_iteration(folder), Selection(**selection))


def test_the_newest_complete_iteration_is_taken(saved):
    assert find_iteration(saved).step == "12"
    assert find_iteration(saved).notices == ()
    assert find_iteration(saved, "7").folder.name == "iteration_00000007"
    assert find_iteration(saved / "iteration_00000007", "7").step == "7"


def test_a_killed_save_is_passed_over_and_named(saved):
    (saved / "iteration_00000012/metadata.json").unlink()
    found = find_iteration(saved)
    assert found.step == "7"
    assert found.notices == (
        "taking iteration 7; iteration_00000012 has no metadata.json, so that it was not saved to its end",
        "taking iteration 7, the newest that is complete; latest_checkpointed_iteration.txt says '12'",
    )
    with pytest.raises(MissingShard, match=r"iteration_00000012 has no metadata\.json, which is written last"):
        find_iteration(saved, "12")


@pytest.mark.parametrize("hint", ["7", "", "none", "\udcff" * 100])
def test_the_hint_decides_nothing(saved, hint):
    (saved / "latest_checkpointed_iteration.txt").write_bytes(hint.encode(errors="surrogateescape"))
    assert find_iteration(saved).step == "12"
    assert len(find_iteration(saved).notices) == 1


def test_numbers_are_compared_as_numbers(saved):
    (saved / "iteration_00000012").rename(saved / "iteration_100000000")
    (saved / "iteration_00000007").rename(saved / "iteration_9")
    assert find_iteration(saved).step == "100000000"


def test_a_folder_of_any_name_with_metadata_is_an_iteration(saved):
    (saved / "iteration_00000012").rename(saved / "best")
    assert find_iteration(saved / "best").step == ""
    assert is_checkpoint2(saved / "best")


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        ("8", MissingShard, r"expected an iteration 8, found \[7, 12\]"),
        ("1_20", ConfigError, "give the number of one"),
    ],
)
def test_a_step_that_is_not_there_is_refused(saved, step, error, message):
    with pytest.raises(error, match=message):
        find_iteration(saved, step)


def test_a_step_other_than_the_folders_is_refused(saved):
    with pytest.raises(ConfigError, match="is iteration 12; leave --step out"):
        find_iteration(saved / "iteration_00000012", "7")


def test_two_folders_of_one_iteration_are_refused(saved):
    shutil.copytree(saved / "iteration_00000012", saved / "iteration_12")
    with pytest.raises(ConfigError, match="iteration 12 is there as iteration_00000012 and iteration_12"):
        find_iteration(saved)


def test_a_single_cards_files_are_named_as_what_they_are(tmp_path):
    folder = tmp_path / "iteration_00000003"
    folder.mkdir()
    with pytest.raises(MissingShard, match=r"found neither metadata\.json nor slices"):
        find_iteration(folder)
    (folder / "model-0000000-0000001.safetensors").touch()
    with pytest.raises(MissingShard, match=r"a run on a single card writes none.*as --from"):
        find_iteration(folder)


def test_other_folders_are_no_checkpoint2(tmp_path):
    (tmp_path / "rank_0").mkdir()
    (tmp_path / "iteration_x").mkdir()
    assert not is_checkpoint2(tmp_path)
    assert not is_checkpoint2(tmp_path / "missing")
    with pytest.raises(MissingShard, match="expected folders iteration_N"):
        find_iteration(tmp_path)


def test_files_are_in_the_order_of_kinds_and_ranks(balanced):
    files = plan(balanced).slices.files
    assert [(file.path.name.split("-")[1], file.rank) for file in files] == [
        (kind, rank) for kind in ("model", "opt") for rank in range(4)
    ]


def test_weights_are_what_the_model_files_hold(saved):
    names = [tensor.header.name for tensor in plan(saved, weights_only=True).tensors]
    assert names == ["decoder.0.weight", "it's", "embedding.table", "scale"]


def test_weights_are_not_guessed(balanced):
    for path in balanced.glob("run-opt-*"):
        path.rename(balanced / path.name.replace("-opt-", "-"))
    metadata = balanced / "metadata.json"
    metadata.write_text(metadata.read_text().replace("run-opt-", "run-"))
    with pytest.raises(ConfigError, match="expected names that say model or opt"):
        plan(balanced, weights_only=True)
    assert len(plan(balanced).tensors) == 7


def test_selection_by_name(balanced):
    names = [tensor.header.name for tensor in plan(balanced, include=("*decoder*",), exclude=("adam*",)).tensors]
    assert names == ["decoder.0.weight"]
    with pytest.raises(MissingShard, match="none of the 7 tensors is selected"):
        plan(balanced, include=("x",))


def test_what_the_metadata_does_not_name_is_said(balanced):
    (balanced / "copy.safetensors").write_bytes(b"")
    file = balanced / "run-opt-0000000-0000004.safetensors"
    write_checkpoint({**read_checkpoint(file), "stray": read_checkpoint(file)["global_step"]}, file)
    assert plan(balanced).slices.notices == (
        "1 file, such as copy.safetensors, is not named by metadata.json and left aside",
        "1 tensor in the files, such as stray, is not in metadata.json and left aside",
    )


def change_metadata(folder: Path, change) -> None:
    path = folder / "metadata.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def test_a_tensor_that_was_not_to_be_saved_is_said(balanced):
    def change(document):
        document["state_dict_metadata"]["scale"]["properties"]["allow_to_save"] = False
        del document["storage_data"]["('scale', (0,))"]

    change_metadata(balanced, change)
    found = plan(balanced)
    assert "scale" not in [tensor.header.name for tensor in found.tensors]
    assert "1 tensor, such as scale, was not to be saved (allow_to_save), and not there" in found.slices.notices


def test_a_tensor_that_was_not_to_be_saved_but_is_there_is_refused(balanced):
    def change(document):
        document["state_dict_metadata"]["scale"]["properties"]["allow_to_save"] = False

    change_metadata(balanced, change)
    with pytest.raises(LayoutError, match="parameter scale is there, although its allow_to_save is false"):
        plan(balanced)


def test_a_missing_slice_is_named_with_its_ranks(balanced):
    change_metadata(balanced, lambda document: document["storage_data"].pop("('decoder.0.weight', (2,))"))
    with pytest.raises(MissingShard, match=r"decoder.0.weight: of 4 slices, 1 is in no file, such as slice 2 of ranks"):
        plan(balanced)


def test_a_missing_file_is_named(balanced):
    (balanced / "run-opt-0000002-0000004.safetensors").unlink()
    with pytest.raises(MissingShard, match=r"run-opt-0000002-0000004.safetensors \(rank 2\): metadata.json names it"):
        plan(balanced)


def test_a_file_that_leads_elsewhere_is_refused(balanced, tmp_path):
    file = balanced / "run-opt-0000002-0000004.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CorruptShard, match="is a symbolic link that leads out of"):
        plan(balanced)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda parts: parts.pop("scale"), MissingShard, "says that it holds scale, but it doesn't"),
        (
            lambda parts: parts.update(scale=parts["scale"].reshape(1)),
            LayoutError,
            r"says Float32 \[\], found Float32 \[1\]",
        ),
        (lambda parts: parts.update(scale=parts["scale"].astype("f8")), LayoutError, r"found Float64 \[\]"),
    ],
)
def test_a_file_that_contradicts_the_metadata_is_refused(balanced, change, error, message):
    document = json.loads((balanced / "metadata.json").read_bytes())
    file = balanced / document["storage_data"]["('scale', (0,))"][0]["file_name"]
    parts = dict(read_checkpoint(file))
    change(parts)
    write_checkpoint(parts, file)
    with pytest.raises(error, match=message):
        plan(balanced)


def test_one_file_of_two_ranks_is_refused(balanced):
    def change(document):
        document["storage_data"]["('scale', (0,))"][0]["storage_rank"] = 3

    change_metadata(balanced, change)
    with pytest.raises(CheckpointError, match="for some slices, of rank"):
        plan(balanced)
