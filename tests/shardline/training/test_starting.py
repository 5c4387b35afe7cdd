"""Where a run begins: which shard set it takes, which it refuses, and whose weights it starts from otherwise."""

import json
import shutil

import numpy as np
import pytest
from blake3 import blake3

from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError, CorruptShard, LayoutError
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory
from shardline.store.model_store import ModelStore
from shardline.store.version import Candidate
from shardline.training.receipts import Receipts
from shardline.training.saving import Saver
from shardline.training.starting import Start, start
from tests.shardline.training.in_process import assert_same_values, damage, new_context, save, take_step, values

LAST = 100


def begin(context, home=None) -> int:
    return start(context, Home(home or context.run.path), LAST).step


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A run with the shard sets 9 and 10, and its values at each."""
    context, found = new_context(tmp_path_factory.mktemp("trained") / "run"), {}
    for step in (9, 10):
        take_step(context, step)
        save(context, step)
        found[step] = values(context)
    return context.run, found


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of that run, to be damaged."""
    run, found = trained_once
    shutil.copytree(run.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run"), found


def test_without_a_shard_set_training_starts_at_the_initial_values(tmp_path):
    context = new_context(tmp_path)
    before = values(context)
    assert begin(context) == 0
    assert_same_values(context, before)


def test_the_numerically_newest_set_is_loaded_with_all_states(trained, capsys):
    run, found = trained
    assert np.abs(found[10]["moment1.layer1.weight"]).max() > 0
    again = new_context(run.path, seed=3)
    assert begin(again) == 10
    assert_same_values(again, found[10])
    assert capsys.readouterr().out == "resumed from shard set 10\n"


def test_of_a_damaged_newest_set_rank_file_and_reason_are_told_and_the_one_before_is_taken(trained, capsys):
    run, found = trained
    damage(run.checkpoints / "rank_0" / "checkpoint-1_10.ckpt")
    again = new_context(run.path, seed=3)
    assert begin(again) == 9
    assert_same_values(again, found[9])
    told = capsys.readouterr().out
    assert "shard set 10 of" in told
    assert "checkpoint-1_10.ckpt (rank 0): expected the digest" in told
    assert "set aside as" in told


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"world_size": 1', b"\xff"])
def test_an_older_manifest_that_cannot_be_read_is_set_aside_with_what_may_be_its_files(trained, capsys, content):
    run, found = trained
    slice_file = run.checkpoints / "rank_0" / "checkpoint-1_9.ckpt"
    saved = slice_file.read_bytes()
    ShardSet.path(run.checkpoints, 9).write_bytes(content)
    again = new_context(run.path, seed=3)
    assert begin(again) == 10
    assert_same_values(again, found[10])
    aside = run.checkpoints / "damaged-9"
    assert (aside / "shard_set-9.json").read_bytes() == content
    assert (aside / "rank_0" / slice_file.name).read_bytes() == saved
    assert ShardSet.steps(run.checkpoints) == [10]
    told = capsys.readouterr().out
    assert f"set aside as {aside}: " in told
    assert "shard_set-9.json" in told
    Saver(again).discard_incomplete()
    assert (aside / "rank_0" / slice_file.name).exists()


def test_a_damaged_set_is_kept_as_evidence_out_of_the_way(trained):
    run, _ = trained
    damage(run.checkpoints / "rank_0" / "checkpoint-1_10.ckpt")
    content = (run.checkpoints / "rank_0" / "checkpoint-1_10.ckpt").read_bytes()
    begin(new_context(run.path))
    aside = run.checkpoints / "damaged-10"
    assert (aside / "rank_0" / "checkpoint-1_10.ckpt").read_bytes() == content
    with pytest.raises(CorruptShard):
        ShardSet.read(aside / "shard_set-10.json").verify(aside)
    assert ShardSet.steps(run.checkpoints) == [9]
    save(new_context(run.path), 10)
    damage(run.checkpoints / "rank_0" / "checkpoint-1_10.ckpt")
    begin(new_context(run.path))
    assert (run.checkpoints / "damaged-10.2" / "shard_set-10.json").exists()


@pytest.mark.parametrize("what", ["missing", "manifest", "strategy", "truncated"])
def test_whatever_is_damaged_the_set_before_is_taken(trained, what):
    run, found = trained
    checkpoints, file = run.checkpoints, run.checkpoints / "rank_0" / "checkpoint-1_10.ckpt"
    if what == "missing":
        file.unlink()
    elif what == "truncated":
        file.chmod(0o600)
        file.write_bytes(file.read_bytes()[:100])
    elif what == "manifest":
        ShardSet.path(checkpoints, 10).write_text("{")
    else:
        manifest = json.loads(ShardSet.path(checkpoints, 10).read_text()) | {"strategy_digest": "0" * 64}
        ShardSet.path(checkpoints, 10).write_text(json.dumps(manifest))
    again = new_context(run.path, seed=3)
    assert begin(again) == 9
    assert_same_values(again, found[9])


def test_where_no_set_is_intact_nothing_is_moved_and_training_does_not_start_over(trained):
    run, _ = trained
    for step in (9, 10):
        damage(run.checkpoints / "rank_0" / f"checkpoint-1_{step}.ckpt")
    before = sorted(run.checkpoints.rglob("*"))
    for _ in range(2):
        with pytest.raises(CorruptShard, match=r"those of steps \[10, 9\] are all damaged; the newest: .*rank 0"):
            begin(new_context(run.path))
        Receipts(run.checkpoints).clear()
        assert [path for path in sorted(before) if ".receipts" not in str(path)] == [
            path for path in sorted(run.checkpoints.rglob("*")) if ".receipts" not in str(path)
        ]


def test_another_configuration_is_refused_by_name_and_nothing_is_touched(trained):
    run, _ = trained
    damage(run.checkpoints / "rank_0" / "checkpoint-1_10.ckpt")
    with pytest.raises(ConfigError, match=r"(?s)shard set 9 .*learning_rate: expected 0\.001, found 0\.5"):
        begin(new_context(run.path, learning_rate=0.5))
    assert ShardSet.steps(run.checkpoints) == [9, 10]


def test_another_optimizer_is_refused_by_name(trained):
    with pytest.raises(ConfigError, match='optimizer: expected "Adam", found "Momentum"'):
        begin(new_context(trained[0].path, optimizer="Momentum"))


def test_a_new_run_goes_on_from_another_runs_newest_set(trained, capsys):
    run, found = trained
    follower = new_context(run.path.with_name("follower"), seed=3, resume_from="run", epochs=9)
    begun = start(follower, Home(run.path.parent), LAST)
    assert begun == Start(10, run)
    assert_same_values(follower, found[10])
    assert f"resumed from shard set 10 of {run.path}\n" in capsys.readouterr().out
    manifest = ShardSet.path(run.checkpoints, 10).read_bytes()
    noted = {"run": str(run.path), "step": 10, "digest": blake3(manifest).hexdigest()}
    assert json.loads(follower.run.start_file.read_bytes()) == noted


def test_another_runs_damaged_set_is_told_and_left_alone(trained, capsys):
    run, found = trained
    damage(run.checkpoints / "rank_0" / "checkpoint-1_10.ckpt")
    follower = new_context(run.path.with_name("follower"), seed=3, resume_from=str(run.path))
    assert begin(follower) == 9
    assert_same_values(follower, found[9])
    assert "is damaged" in capsys.readouterr().out
    assert ShardSet.steps(run.checkpoints) == [9, 10]


def test_a_runs_own_sets_come_before_those_of_the_run_that_it_resumed_from(trained):
    run, _ = trained
    follower = new_context(run.path.with_name("follower"), seed=3, resume_from="run")
    save(follower, 3)
    follower.run.start_file.write_text("{}")
    assert begin(new_context(follower.run.path, resume_from="run")) == 3
    assert follower.run.start_file.read_text() == "{}"  # what the run began with stays


def test_resuming_from_a_run_that_saved_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"resume_from is 'nowhere', but .*nowhere/src_checkpoints holds no complete"):
        begin(new_context(tmp_path / "run", resume_from="nowhere"))


def test_resuming_from_a_set_beyond_the_last_step_is_refused(trained):
    follower = new_context(trained[0].path.with_name("follower"), resume_from="run")
    with pytest.raises(ConfigError, match="leaves nothing to train: this run ends at step 10; raise epochs"):
        start(follower, Home(follower.run.path), 10)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_file_gives_its_weights_and_nothing_else(tmp_path, capsys, suffix):
    source = new_context(tmp_path / "source", seed=5)
    take_step(source)
    write_checkpoint(values(source), tmp_path / f"model.{suffix}")
    context = new_context(tmp_path / "run", start_file=f"../model.{suffix}")
    assert begin(context) == 0
    found, expected = values(context), values(source)
    for parameter in context.cell.network.trainable_params():
        np.testing.assert_array_equal(found[parameter.name], expected[parameter.name])
    assert np.abs(found["moment1.layer1.weight"]).max() == 0
    assert capsys.readouterr().out == f"started from the weights in ../model.{suffix}\n"
    assert json.loads(context.run.start_file.read_bytes()) == {"file": str(context.run.path / f"../model.{suffix}")}


def test_of_the_current_version_its_number_and_digest_are_kept_until_a_try_begins_anew(tmp_path):
    source = new_context(tmp_path / "source", seed=5)
    write_checkpoint(values(source), tmp_path / "model.ckpt")
    home, digest = Home(tmp_path / "home"), file_digest(tmp_path / "model.ckpt")
    ModelStore(home, "digits").add(Candidate("runs/a/1", tmp_path / "model.ckpt", digest, None, None, 1, {}))
    context = new_context(tmp_path / "run", start_from="current", model_name="digits")
    assert start(context, home, LAST).step == 0
    noted = {"model": "digits", "version": 1, "digest": digest}
    assert json.loads(context.run.start_file.read_bytes()) == noted
    begin(new_context(tmp_path / "run"))
    assert not context.run.start_file.exists()


def test_a_file_of_another_network_is_refused(tmp_path):
    context = new_context(tmp_path, start_file="model.ckpt")
    write_checkpoint(values(context) | {"layer3.bias": np.zeros(11, np.float32)}, tmp_path / "model.ckpt")
    with pytest.raises(LayoutError, match=r"layer3\.bias is float32 \[11\], expected float32 \[10\]"):
        begin(context)


def test_a_file_without_one_of_the_weights_is_refused(tmp_path):
    context = new_context(tmp_path, start_file="model.ckpt")
    weights = values(context)
    del weights["layer2.weight"]
    write_checkpoint(weights, tmp_path / "model.ckpt")
    with pytest.raises(LayoutError, match=r"it lacks \['layer2\.weight'\]"):
        begin(context)
