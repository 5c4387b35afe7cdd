"""Shard sets as they are saved: what they name, what goes when they are too old, and what is never saved."""

import dataclasses
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from shardline.base import atomic, process_identity
from shardline.base.errors import OutputError, TrainingError
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.training.saving import Saver
from tests.durability import recorded
from tests.shardline.training.in_process import new_context, save, take_step, values


@pytest.fixture
def context(tmp_path):
    return new_context(tmp_path)


def test_too_old_sets_go_and_incomplete_ones_are_discarded(context, capsys):
    for step in (5, 10, 15):
        save(context, step)
    assert ShardSet.steps(context.run.checkpoints) == [10, 15]
    folder = context.run.checkpoints / "rank_0"
    begun = ("checkpoint-1_20.ckpt", "checkpoint-1_25.tmp", ".tmpEdHa5I")
    for name in begun:
        (folder / name).write_bytes(b"half")
    Saver(context).discard_incomplete()
    assert sorted(file.name for file in folder.iterdir()) == ["checkpoint-1_10.ckpt", "checkpoint-1_15.ckpt"]
    ShardSet.read(ShardSet.path(context.run.checkpoints, 15)).verify(context.run.checkpoints)
    told = capsys.readouterr().out
    assert all(name in told for name in begun), "what is removed is told"


def test_a_manifest_that_a_killed_process_was_writing_goes_whatever_is_saved_next(context, capsys):
    save(context, 5)
    checkpoints = context.run.checkpoints
    dead = f"1073741824-1@{process_identity.place()}"
    (abandoned := checkpoints / f".shard_set-20.json.{dead}.staged").write_text("{")
    parent = os.getppid()
    alive = f"{parent}-{process_identity.started(parent)}@{process_identity.place()}"
    (at_work := checkpoints / f".shard_set-25.json.{alive}.staged").write_text("{")
    Saver(context).discard_incomplete()
    assert not abandoned.exists()
    assert at_work.exists(), "its writer may still be"
    assert abandoned.name in capsys.readouterr().out


def test_slices_are_on_disk_before_their_manifest_and_manifests_go_before_their_slices(context):
    checkpoints = context.run.checkpoints
    for step in (5, 10):
        save(context, step)
    with recorded(context.run.path) as durability:
        save(context, 15)
    slice_file, manifest = checkpoints / "rank_0" / "checkpoint-1_15.ckpt", ShardSet.path(checkpoints, 15)
    durability.check(manifest)
    durability.check_flushed_before(slice_file, manifest)
    durability.check_flushed_before(slice_file.parent, manifest)
    durability.check_removed_before(ShardSet.path(checkpoints, 5), checkpoints / "rank_0" / "checkpoint-1_5.ckpt")


def test_folders_of_ranks_that_are_no_more_go_with_the_last_set_that_names_them(context):
    checkpoints = context.run.checkpoints
    save(context, 5)
    larger = ShardSet.read(ShardSet.path(checkpoints, 5))
    file = larger.slices[0]
    (checkpoints / "rank_1").mkdir()
    (checkpoints / "rank_1" / "checkpoint-1_5.ckpt").write_bytes((checkpoints / file.path).read_bytes())
    second = dataclasses.replace(file, rank=1, path="rank_1/checkpoint-1_5.ckpt")
    dataclasses.replace(larger, world_size=2, slices=(file, second)).write(checkpoints)
    (checkpoints / "rank_2").mkdir()
    Saver(context).discard_incomplete()
    assert [folder.name for folder in sorted(checkpoints.glob("rank_*"))] == ["rank_0", "rank_1"]
    save(context, 10)
    assert (checkpoints / "rank_1").is_dir(), "its set is one of the two that are kept"
    save(context, 15)
    assert [folder.name for folder in checkpoints.glob("rank_*")] == ["rank_0"]


STRAY = {
    "rank_0.bak/checkpoint-1_1.ckpt": "a copy of a folder",
    "rank_0_1/checkpoint-1_1.ckpt": "no rank's, though int() reads a 1 there",
    "rank_00/checkpoint-1_1.ckpt": "not how a rank spells its number",
    "rank_x/checkpoint-1_1.ckpt": "",
    "rank_0/notes.txt": "",
    "rank_0/checkpoint-1_99.ckpt.bak": "",
    "rank_0/mine.tmp": "",
    "rank_0/.tmp": "",
    "rank_0/.tmpEdHa5I.swp": "",
    "rank_00/checkpoint-1_1.tmp": "",
    "rank_0/folder/checkpoint-1_1.ckpt": "",
    "notes": "",
    "shard_set-x.json": "{",
    "shard_set-05.json": "{",
}


def test_nothing_that_training_did_not_write_is_removed_or_in_its_way(context, tmp_path):
    checkpoints = context.run.checkpoints
    save(context, 5)
    for name, content in STRAY.items():
        (checkpoints / name).parent.mkdir(exist_ok=True)
        (checkpoints / name).write_text(content)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "checkpoint-1_1.ckpt").write_text("theirs")
    (checkpoints / "rank_7").symlink_to(tmp_path / "elsewhere")
    (checkpoints / "rank_0" / "checkpoint-1_98.ckpt").symlink_to(tmp_path / "elsewhere" / "checkpoint-1_1.ckpt")
    (checkpoints / "rank_0" / "checkpoint-1_97.ckpt").write_bytes(b"half: ours")
    Saver(context).discard_incomplete()
    for step in (10, 15, 20):
        save(context, step)
    assert ShardSet.steps(checkpoints) == [15, 20]
    assert {name: (checkpoints / name).read_text() for name in STRAY} == STRAY
    assert (checkpoints / "rank_7" / "checkpoint-1_1.ckpt").read_text() == "theirs"
    assert (checkpoints / "rank_0" / "checkpoint-1_98.ckpt").is_symlink()
    assert not (checkpoints / "rank_0" / "checkpoint-1_97.ckpt").exists()


def test_a_manifest_that_was_damaged_meanwhile_stops_no_saving(context, capsys):
    checkpoints = context.run.checkpoints
    saver = Saver(context)
    saver.save(5, 1, 5)
    ShardSet.path(checkpoints, 5).write_text("{")
    for step in (10, 15, 20, 25):
        saver.save(step, 1, step)
    assert ShardSet.steps(checkpoints) == [5, 20, 25]
    assert capsys.readouterr().out.count("kept, since it cannot be read: ") == 1


def test_a_set_names_what_made_it(context):
    Saver(context).save(7, epoch=2, step_in_epoch=3)
    found = ShardSet.newest(context.run.checkpoints)
    assert found is not None
    assert dataclasses.asdict(found) | {"slices": None} == {
        "world_size": 1,
        "step": 7,
        "epoch": 2,
        "strategy_digest": context.provenance.strategy_digest,
        "configuration_digest": context.provenance.configuration_digest,
        "integrated": False,
        "files": "rank files",
        "slices": None,
    }
    assert [item.path for item in found.slices] == ["rank_0/checkpoint-2_3.ckpt"]
    strategy = context.run.strategy_saved_with(found.strategy_digest)
    assert strategy.read_bytes() == context.run.strategy_file(context.config).read_bytes()
    assert context.run.configuration_saved_with(found.configuration_digest).is_file()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_is_saved_over_a_good_set_once_a_value_is_not_finite(context, value):
    save(context, 5)
    parameter = next(each for each in context.cell.get_parameters() if each.name == "layer2.bias")
    poisoned = values(context)["layer2.bias"]
    poisoned[3] = value
    parameter.set_data(Tensor(poisoned))
    with pytest.raises(
        TrainingError, match=r"step 10: 1 parameter or optimizer state of rank 0 holds .* the first is layer2\.bias"
    ):
        save(context, 10)
    assert ShardSet.steps(context.run.checkpoints) == [5]
    assert [file.name for file in (context.run.checkpoints / "rank_0").iterdir()] == ["checkpoint-1_5.ckpt"]


PATIENCE_S = 60


class Gate:
    """Holds what makes a directory until it is opened: every saving begins with that."""

    def __init__(self, monkeypatch):
        self.opened, make = threading.Event(), atomic.make_directory

        def held(path: Path) -> None:
            assert self.opened.wait(PATIENCE_S)
            make(path)

        monkeypatch.setattr(atomic, "make_directory", held)


@pytest.mark.parametrize("parameters", [{}, {"remove_redundancy": True}, {"checkpoint_format": "safetensors"}])
def test_what_is_saved_behind_training_is_the_step_that_it_was_begun_at(tmp_path, monkeypatch, parameters):
    """Byte for byte what is saved while training stands still; the steps that follow are not in it."""
    contexts = [new_context(tmp_path / name, save_behind=name == "behind", **parameters) for name in ("now", "behind")]
    for context in contexts:
        take_step(context)
    gate = Gate(monkeypatch)
    saver = Saver(contexts[1])
    saver.save(5, 1, 5)
    take_step(contexts[1], seed=1)
    assert ShardSet.steps(contexts[1].run.checkpoints) == []
    gate.opened.set()
    saver.finish()
    save(contexts[0], 5)
    now, behind = (ShardSet.read(ShardSet.path(context.run.checkpoints, 5)) for context in contexts)
    assert [item.digest for item in behind.slices] == [item.digest for item in now.slices]


def test_a_set_begun_behind_training_is_complete_before_the_next_one_is(tmp_path):
    context = new_context(tmp_path, save_behind=True)
    saver = Saver(context)
    for step in (5, 10, 15):
        saver.save(step, 1, step)
        assert ShardSet.steps(context.run.checkpoints)[-1:] in ([], [step - 5], [step])
    saver.finish()
    assert ShardSet.steps(context.run.checkpoints) == [10, 15]


def test_what_goes_wrong_behind_training_comes_out_at_the_next_saving_and_at_the_end(tmp_path):
    context = new_context(tmp_path, save_behind=True)
    saver = Saver(context)
    saver.save(5, 1, 5)
    saver.finish()
    parameter = next(each for each in context.cell.get_parameters() if each.name == "layer2.bias")
    poisoned = values(context)["layer2.bias"]
    poisoned[3] = np.nan
    parameter.set_data(Tensor(poisoned))
    for meet in (lambda: saver.save(15, 1, 15), saver.finish):
        saver.save(10, 1, 10)
        with pytest.raises(
            TrainingError, match=r"step 10: 1 parameter or optimizer state of rank 0 holds .* the first is layer2\.bias"
        ):
            meet()
    assert ShardSet.steps(context.run.checkpoints) == [5]


@pytest.fixture
def small_files():
    """No file may be larger than a megabyte: the system refuses in the middle of a slice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.usefixtures("small_files")
def test_a_slice_that_cannot_be_written_is_named_with_what_to_do(tmp_path, suffix):
    context = new_context(tmp_path, checkpoint_format=suffix)
    with pytest.raises(OutputError) as refused:
        save(context, 5)
    assert str(refused.value) == (
        f"{context.run.checkpoints}/rank_0/checkpoint-1_5.{suffix}: shard set 5 cannot be saved: File too large; raise "
        "the limit on the size of files (ulimit -f). The next try goes on from the newest complete shard set"
    )


def test_a_manifest_that_cannot_be_written_is_named_too(context):
    (ShardSet.path(context.run.checkpoints, 5)).mkdir(parents=True)
    with pytest.raises(OutputError, match=r"shard_set-5\.json.*: shard set 5 cannot be saved: Is a directory; remove"):
        save(context, 5)
