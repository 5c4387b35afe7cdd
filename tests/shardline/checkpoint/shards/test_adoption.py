"""A manifest for what another program saved: of which files, when not, and what a merge makes of it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError, CorruptShard, LayoutError, MissingShard
from shardline.checkpoint.formats.checkpoint_file import read_integrated, write_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards import adoption
from shardline.checkpoint.shards.adoption import Cut, adopt, is_adopted, withdraw_removed
from shardline.checkpoint.shards.saves import saves_in
from shardline.checkpoint.shards.shard_set import CHECKPOINT2, ShardSet
from shardline.checkpoint.strategy.layout import Layout
from tests.durability import recorded
from tests.shardline.checkpoint.sharding import LAYOUTS, save_shards, save_strategy, slices_of, tensors

OTHER_LAYOUTS = LAYOUTS | {"layer3.weight": Layout((2, 2, 2), ((1,), (), ()))}
CHECKPOINT2_FIXTURES = Path(__file__).parents[3] / "fixtures" / "checkpoint2"


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "checkpoint"
    save_shards(folder, tensors(), name="CKP-1_20.ckpt")
    return folder


@pytest.fixture
def cut(tmp_path):
    return Cut.of([save_strategy(tmp_path / "strategy.ckpt")])


def save_stages(folder, number):
    """Save so many pipeline stages of 8 ranks below `checkpoint`; the stages' strategy files."""
    paths = []
    for stage in range(number):
        layouts = {f"stage{stage}.{name}": layout for name, layout in LAYOUTS.items()}
        paths.append(save_strategy(folder / f"strategy_{stage}.ckpt", layouts, stage))
        for rank in range(8):
            of_rank = folder / "checkpoint" / f"rank_{stage * 8 + rank}"
            of_rank.mkdir(parents=True)
            whole = {f"stage{stage}.{name}": array for name, array in tensors(stage).items() if name in LAYOUTS}
            write_checkpoint(slices_of(whole, layouts, rank), of_rank / "CKP-1_20.ckpt")
    return paths


def only(folder, cut):
    (save,) = saves_in(folder, cut.world_size)
    return save


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.ckpt")}


def test_what_the_program_did_not_flush_is_on_disk_before_the_manifest(tmp_path, cut):
    save_shards(tmp_path / "saved", tensors(), name="CKP-1_20.ckpt")
    (folder := tmp_path / "checkpoint").mkdir()
    with recorded(tmp_path) as durability:
        for rank in sorted((tmp_path / "saved").iterdir()):
            (folder / rank.name).mkdir()
            (folder / rank.name / "CKP-1_20.ckpt").write_bytes((rank / "CKP-1_20.ckpt").read_bytes())
        (save,) = saves_in(folder, cut.world_size)
        adopted = adopt(save, cut)
        assert adopted is not None
    durability.check(adopted.manifest)
    for path in save.files:
        durability.check_flushed_before(path, adopted.manifest)
        durability.check_order(path.parent, adopted.manifest)


def test_the_manifest_names_every_file_with_its_size_and_digest(shards, cut):
    before = snapshot(shards)
    adopted = adopt(only(shards, cut), cut)
    shard_set = ShardSet.read(shards / "shard_set-20.json")
    assert adopted.shard_set == shard_set
    assert (shard_set.world_size, shard_set.step, shard_set.epoch, shard_set.integrated) == (8, 20, 1, False)
    assert [item.path for item in shard_set.slices] == [f"rank_{rank}/CKP-1_20.ckpt" for rank in range(8)]
    shard_set.verify(shards)
    assert snapshot(shards) == before
    assert str(adopted) == (
        "adopted shard set 20 (global_step in the files) from 8 files, rank_0/CKP-1_20.ckpt to rank_7/CKP-1_20.ckpt: "
        f"{shards / 'shard_set-20.json'}"
    )


def test_the_strategy_is_kept_beside_it(shards, cut, tmp_path):
    shard_set = adopt(only(shards, cut), cut).shard_set
    kept = shards / "provenance" / f"strategy-{shard_set.strategy_digest}"
    assert kept.read_bytes() == (tmp_path / "strategy.ckpt").read_bytes()


def test_a_merge_takes_the_adopted_set_and_proves_it(shards, cut, tmp_path):
    adopt(only(shards, cut), cut)
    merged = merge(MergeRequest(shards, (tmp_path / "strategy.ckpt",), tmp_path / "model.ckpt"))
    assert merged.record["inputs"]["manifest"] is True
    assert merged.record["inputs"]["step"] == "20"
    whole = read_integrated(tmp_path / "model.ckpt")
    np.testing.assert_array_equal(whole["layer1.weight"], tensors()["layer1.weight"])


def test_slices_that_change_after_they_were_adopted_are_refused_by_name(shards, cut, tmp_path):
    adopt(only(shards, cut), cut)
    write_checkpoint(slices_of(tensors(seed=1), LAYOUTS, 3), shards / "rank_3" / "CKP-1_20.ckpt")
    with pytest.raises(CorruptShard, match=r"rank_3/CKP-1_20.ckpt \(rank 3\): expected the digest"):
        merge(MergeRequest(shards, (tmp_path / "strategy.ckpt",), tmp_path / "model.ckpt"))
    with pytest.raises(CorruptShard, match=r"rank_3/CKP-1_20.ckpt \(rank 3\) was changed since it was adopted"):
        adopt(only(shards, cut), cut)


def test_another_strategy_than_it_was_adopted_with_is_refused(shards, cut, tmp_path):
    adopt(only(shards, cut), cut)
    other = save_strategy(tmp_path / "other.ckpt", dict(reversed(LAYOUTS.items())))
    with pytest.raises(LayoutError, match="saved with the strategy"):
        merge(MergeRequest(shards, (other,), tmp_path / "model.ckpt"))


def test_a_file_that_changes_while_it_is_digested_is_not_adopted(shards, cut, monkeypatch):
    def digest_and_write(path):
        digest = file_digest(path)
        if path.parent.name == "rank_5":
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        return digest

    monkeypatch.setattr(adoption, "file_digest", digest_and_write)
    with pytest.raises(CorruptShard, match=r"rank_5/CKP-1_20.ckpt changed while it was read"):
        adopt(only(shards, cut), cut)
    assert ShardSet.steps(shards) == []


def test_a_file_that_is_removed_meanwhile_is_not_adopted(shards, cut):
    save = only(shards, cut)
    (shards / "rank_5" / "CKP-1_20.ckpt").unlink()
    with pytest.raises(MissingShard):
        adopt(save, cut)
    assert ShardSet.steps(shards) == []


def test_a_file_that_was_cut_off_is_not_adopted(shards, cut):
    path = shards / "rank_2" / "CKP-1_20.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptShard, match=r"rank_2/CKP-1_20\.ckpt"):
        adopt(only(shards, cut), cut)
    assert ShardSet.steps(shards) == []


def test_a_strategy_that_does_not_fit_the_slices_is_refused(shards, tmp_path):
    cut = Cut.of([save_strategy(tmp_path / "other.ckpt", OTHER_LAYOUTS)])
    with pytest.raises(LayoutError, match=r"layer3\.weight"):
        adopt(only(shards, cut), cut)
    assert not (shards / "provenance").exists()


def test_a_strategy_of_another_number_of_ranks_is_refused(tmp_path):
    with pytest.raises(LayoutError, match="the strategy shards over 8 ranks, the training runs on 4"):
        Cut.of([save_strategy(tmp_path / "strategy.ckpt")], world_size=4)


def test_what_is_known_of_a_strategy_is_of_one_reading_though_it_is_written_meanwhile(tmp_path, monkeypatch):
    path = save_strategy(tmp_path / "strategy.ckpt")
    expected, read = Cut.of([path]), Path.read_bytes

    def rewritten_when_it_is_read(file: Path) -> bytes:
        content = read(file)
        save_strategy(path, OTHER_LAYOUTS)
        return content

    monkeypatch.setattr(Path, "read_bytes", rewritten_when_it_is_read)
    assert Cut.of([path]) == expected
    assert file_digest(path) not in expected.strategies


@pytest.mark.parametrize("stages", [1, 2])
def test_a_strategy_that_was_changed_since_it_was_read_is_refused_and_not_kept(tmp_path, stages):
    paths = save_stages(tmp_path, stages)
    cut = Cut.of(paths)
    before = paths[-1].read_bytes()
    save_strategy(paths[-1], OTHER_LAYOUTS, stages - 1)
    with pytest.raises(CorruptShard, match=rf"strategy_{stages - 1}\.ckpt: the strategy was changed while slices were"):
        adopt(only(tmp_path / "checkpoint", cut), cut)
    assert list((tmp_path / "checkpoint").rglob("strategy-*")) == []
    paths[-1].write_bytes(before)
    assert adopt(only(tmp_path / "checkpoint", cut), cut) is not None


def test_what_was_adopted_is_known_without_reading_it_again(shards, cut):
    save = only(shards, cut)
    assert not is_adopted(save)
    adopt(save, cut)
    assert is_adopted(only(shards, cut))
    os.utime(shards / "rank_0" / "CKP-1_20.ckpt", ns=(0, (shards / "shard_set-20.json").stat().st_mtime_ns + 1))
    assert not is_adopted(only(shards, cut))
    assert adopt(only(shards, cut), cut) is None  # the same content


def test_nothing_is_adopted_over_a_set_of_our_own(shards, cut):
    path = adopt(only(shards, cut), cut).manifest
    path.write_text(path.read_text().replace('"configuration_digest": ""', '"configuration_digest": "c"'))
    with pytest.raises(ConfigError, match="our own training saved this step"):
        adopt(only(shards, cut), cut)


def test_another_trainings_files_of_the_same_step_are_refused(shards, cut):
    adopt(only(shards, cut), cut)
    save_shards(shards, tensors(), name="other-1_20.ckpt")
    save = next(save for save in saves_in(shards, 8) if save.name == "other-1_20.ckpt")
    with pytest.raises(CorruptShard, match=r"of other files.*there rank_0/CKP-1_20.ckpt, now rank_0/other-1_20.ckpt"):
        adopt(save, cut)


def test_whole_files_of_every_rank_need_no_strategy(tmp_path):
    for rank in range(2):
        (tmp_path / f"rank_{rank}").mkdir()
        write_checkpoint(tensors(), tmp_path / f"rank_{rank}" / "CKP-1_20.ckpt")
    adopted = adopt(only(tmp_path, Cut.of([])), Cut.of([]))
    assert adopted.shard_set.integrated
    assert merge(MergeRequest(tmp_path, (), tmp_path / "model.ckpt")).record["inputs"]["manifest"] is True


def test_the_strategies_of_several_stages_are_kept_as_one(tmp_path):
    paths = save_stages(tmp_path, 2)
    cut = Cut.of(paths)
    shard_set = adopt(only(tmp_path / "checkpoint", cut), cut).shard_set
    kept = tmp_path / "checkpoint" / "provenance" / f"strategy-{shard_set.strategy_digest}"
    for number, strategies in enumerate([(kept,), tuple(paths)]):
        merge(MergeRequest(tmp_path / "checkpoint", strategies, tmp_path / f"model{number}.ckpt"))
    assert (tmp_path / "model0.ckpt").read_bytes() == (tmp_path / "model1.ckpt").read_bytes()


def test_manifests_whose_files_the_program_has_removed_are_withdrawn(shards, cut):
    path = adopt(only(shards, cut), cut).manifest
    for rank in range(7):
        (shards / f"rank_{rank}" / "CKP-1_20.ckpt").unlink()
    assert withdraw_removed(shards) == []  # one is left: that is damage, which is said by name
    (shards / "rank_7" / "CKP-1_20.ckpt").unlink()
    assert withdraw_removed(shards) == [path]
    assert not path.exists()


def test_the_manifest_of_our_own_training_is_never_withdrawn(shards, cut):
    path = adopt(only(shards, cut), cut).manifest
    path.write_text(path.read_text().replace('"configuration_digest": ""', '"configuration_digest": "c"'))
    for rank in range(8):
        (shards / f"rank_{rank}" / "CKP-1_20.ckpt").unlink()
    assert withdraw_removed(shards) == []


@pytest.fixture(params=["balanced", "every_rank", "two_stages"])
def iterations(tmp_path, request):
    shutil.copytree(CHECKPOINT2_FIXTURES / request.param, tmp_path / "checkpoint2")
    return tmp_path / "checkpoint2"


def some_iteration(folder):
    return saves_in(folder, None)[0]


def test_an_iteration_of_checkpoint_2_is_adopted_with_its_metadata(iterations, tmp_path):
    save = some_iteration(iterations)
    adopted = adopt(save, Cut.of([]))
    shard_set = ShardSet.read(iterations / f"shard_set-{save.number}.json")
    assert shard_set == adopted.shard_set
    assert shard_set.files == CHECKPOINT2
    assert {f"{save.iteration.name}/metadata.json"} < {item.path for item in shard_set.slices}
    shard_set.verify(iterations)
    merged = merge(MergeRequest(iterations, (), tmp_path / "model.safetensors", step=str(save.number)))
    assert merged.record["inputs"]["manifest"] is True


@pytest.mark.parametrize("which", ["metadata.json", "slices", "a size"])
def test_an_adopted_iteration_that_changes_is_refused_by_name(iterations, tmp_path, which):
    save = some_iteration(iterations)
    adopt(save, Cut.of([]))
    path = save.iteration / "metadata.json" if which == "metadata.json" else save.files[0]
    content = bytearray(path.read_bytes())
    if which == "metadata.json":
        content = re.sub(rb'("dtype":[^,]*),("replica_id":[^]]*])', rb"\2,\1", content, count=1)
    elif which == "slices":
        content[-1] ^= 1
    else:
        content += b"\0"
    path.write_bytes(content)
    with pytest.raises(CorruptShard, match=f"{path.name}.*manifest of step {save.number}"):
        merge(MergeRequest(iterations, (), tmp_path / "model.safetensors", step=str(save.number)))


KILLED = """
import os, signal, sys
from pathlib import Path
from shardline.checkpoint.shards import adoption
from shardline.checkpoint.shards.saves import saves_in
folder, strategy = Path(sys.argv[1]), Path(sys.argv[2])
digest = adoption.file_digest
def killed(path):
    if path.parent.name == "rank_7":
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(path)
cut = adoption.Cut.of([strategy])
adoption.file_digest = killed
adoption.adopt(saves_in(folder, 8)[0], cut)
"""


def test_a_process_that_is_killed_meanwhile_leaves_nothing_that_counts(shards, cut, tmp_path):
    before = snapshot(shards)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(shards), str(tmp_path / "strategy.ckpt")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ShardSet.steps(shards) == []
    assert snapshot(shards) == before
    assert adopt(only(shards, cut), cut).shard_set.step == 20
