import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import (
    ConfigError,
    LayoutError,
    MissingShard,
    OutputError,
    ReplicaMismatch,
    UnsupportedFormat,
)
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import Resharded, ReshardRequest, reshard
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import Layout
from tests.durability import recorded
from tests.shardline.checkpoint.sharding import (
    LAYOUTS,
    SHAPES,
    save_manifest,
    save_shards,
    save_strategy,
    slices_of,
    tensors,
)

FOUR = {
    "layer1.weight": Layout((2, 2), ((0,), (1,))),
    "layer1.bias": Layout((4,), ((),), optimizer_shard_step=1, optimizer_shard_size=2),
    "layer3.weight": Layout((4,), ((0,), ())),
    "moment1.layer1.weight": Layout((2, 2), ((1, 0), ())),
}
SIXTEEN = {
    "layer1.weight": Layout((4, 4), ((1,), (0,))),
    "layer1.bias": Layout((8, 2), ((0,),)),
    "layer3.weight": Layout((2, 2, 4), ((2, 0), ())),
    "moment1.layer1.weight": Layout((16,), ((), ()), optimizer_shard_step=1, optimizer_shard_size=4),
}
ONE = {name: Layout((1,), ((),) * len(shape)) for name, shape in SHAPES.items()}


@pytest.fixture
def source(tmp_path):
    """Eight ranks' slices in `shards`, and strategies for 1, 4, 8 and 16 ranks."""
    save_shards(tmp_path / "shards", tensors())
    for count, layouts in ((1, ONE), (4, FOUR), (8, LAYOUTS), (16, SIXTEEN)):
        save_strategy(tmp_path / f"{count}.ckpt", layouts)
    return tmp_path


def to(path: Path, count: int, shards: str = "shards", from_count: int = 8, **options: object) -> Resharded:
    return reshard(
        ReshardRequest(
            to_strategies=(path / f"{count}.ckpt",),
            output=path / f"to_{count}",
            shards=path / shards,
            strategies=(path / f"{from_count}.ckpt",),
            **options,
        )
    )


def assert_slices(directory: Path, layouts: dict[str, Layout], count: int, name: str = "checkpoint-1_20.ckpt") -> None:
    for rank in range(count):
        found = read_checkpoint(directory / f"rank_{rank}" / name)
        expected = slices_of(tensors(), layouts, rank)
        assert set(found) == set(expected)
        for parameter, array in expected.items():
            assert np.array_equal(found[parameter], array), (rank, parameter)


@pytest.mark.parametrize(("count", "layouts"), [(1, ONE), (4, FOUR), (8, LAYOUTS), (16, SIXTEEN)])
def test_eight_ranks_become_any_number(source, count, layouts):
    resharded = to(source, count)
    assert resharded.world_size == count
    assert_slices(resharded.output, layouts, count)
    assert sorted(path.name for path in source.iterdir() if path.name.startswith(".")) == []


def test_slices_folders_and_record_are_on_disk_before_the_output_has_its_name(source):
    with recorded(source) as durability:
        output = to(source, 4).output
    durability.check(output)


def test_a_chain_of_reshardings_ends_where_it_began(source):
    to(source, 1)
    to(source, 4, shards="to_1", from_count=1)
    to(source, 16, shards="to_4", from_count=4)
    to(source, 8, shards="to_16", from_count=16)
    for rank in range(8):
        file = f"rank_{rank}/checkpoint-1_20.ckpt"
        assert (source / "to_8" / file).read_bytes() == (source / "shards" / file).read_bytes()


def test_an_integrated_file_is_cut_as_the_slices_were(source):
    merged = merge(MergeRequest(source / "shards", (source / "8.ckpt",), source / "merged" / "model.safetensors"))
    request = ReshardRequest((source / "4.ckpt",), source / "cut", integrated=merged.output, name="slice")
    assert_slices(reshard(request).output, FOUR, 4, "slice.ckpt")


def test_an_integrated_checkpoint_in_several_files_is_cut_as_one(source):
    """The index or its folder; one of the files alone holds a part of the model, and is refused."""
    output = source / "merged" / "model.safetensors"
    merge(MergeRequest(source / "shards", (source / "8.ckpt",), output, max_file_size=200))
    for number, given in enumerate((output.with_name("model.safetensors.index.json"), output.parent)):
        request = ReshardRequest((source / "4.ckpt",), source / f"cut{number}", integrated=given, name="slice")
        assert_slices(reshard(request).output, FOUR, 4, "slice.ckpt")
    for part in output.parent.glob("model-*.safetensors"):
        with pytest.raises(UnsupportedFormat, match="one of several files"):
            reshard(ReshardRequest((source / "4.ckpt",), source / "cut", integrated=part))


def test_one_stage_becomes_two_and_two_become_one(source):
    stages = [{"layer1.weight": FOUR["layer1.weight"], "layer1.bias": FOUR["layer1.bias"]}, {
        "layer3.weight": FOUR["layer3.weight"], "moment1.layer1.weight": FOUR["moment1.layer1.weight"]
    }]  # fmt: skip
    paths = tuple(save_strategy(source / f"stage{n}.ckpt", layouts, stage=n) for n, layouts in enumerate(stages))
    request = ReshardRequest(paths, source / "staged", source / "shards", (source / "8.ckpt",))
    reshard(request)
    first = read_checkpoint(source / "staged" / "rank_1" / "checkpoint-1_20.ckpt")
    second = read_checkpoint(source / "staged" / "rank_7" / "checkpoint-1_20.ckpt")
    assert list(first) == ["layer1.weight", "layer1.bias", "global_step", "learning_rate"]
    assert list(second) == ["layer3.weight", "moment1.layer1.weight", "global_step", "learning_rate"]
    reshard(ReshardRequest((source / "8.ckpt",), source / "back", source / "staged", paths))
    assert_slices(source / "back", LAYOUTS, 8)


def test_a_parameter_of_both_stages_is_written_to_both_and_compared(source):
    shared = {"layer1.weight": FOUR["layer1.weight"], "layer1.bias": FOUR["layer1.bias"]}
    paths = tuple(save_strategy(source / f"stage{n}.ckpt", shared, stage=n) for n in range(2))
    selection = Selection(include=("layer1.*",))
    reshard(ReshardRequest(paths, source / "staged", source / "shards", (source / "8.ckpt",), selection=selection))
    merged = merge(MergeRequest(source / "staged", paths, source / "out" / "model.ckpt"))
    assert np.array_equal(read_checkpoint(merged.output)["layer1.weight"], tensors()["layer1.weight"])
    other = {**tensors(), "layer1.bias": tensors()["layer1.bias"] + 1}
    file = source / "staged" / "rank_6" / "checkpoint-1_20.ckpt"
    write_checkpoint(slices_of({name: other[name] for name in shared}, shared, 2), file)
    with pytest.raises(ReplicaMismatch, match=r"layer1.bias.*rank 6"):
        merge(MergeRequest(source / "staged", paths, source / "out" / "model.ckpt"))


def test_other_format_and_type(source):
    to(source, 4, file_format="safetensors", selection=Selection(dtype="bfloat16"))
    header = read_checkpoint(source / "to_4" / "rank_0" / "checkpoint-1_20.safetensors").header("layer1.weight")
    assert (header.type.name, header.shape) == ("BFloat16", (6, 4))


def test_a_manifest_makes_a_manifest(source):
    save_manifest(source / "shards", source / "8.ckpt")
    to(source, 4)
    shard_set = ShardSet.read(source / "to_4" / "shard_set-20.json")
    shard_set.verify(source / "to_4")
    assert (shard_set.world_size, shard_set.step, shard_set.epoch) == (4, 20, 1)
    merged = merge(MergeRequest(source / "to_4", (source / "4.ckpt",), source / "out" / "model.ckpt"))
    assert merged.record["inputs"]["manifest"] is True


def test_the_record_names_inputs_and_outputs(source):
    resharded = to(source, 4)
    record = json.loads((resharded.output / "reshard.json").read_bytes())
    assert record["inputs"]["files"] == [f"rank_{rank}/checkpoint-1_20.ckpt" for rank in range(8)]
    assert len(record["inputs"]["digests"]) == 8
    assert [file["digest"] for file in record["files"]] == list(resharded.digests)
    assert (record["world_size"], record["ranks"]) == (4, "all")
    assert record["files"][3]["path"] == "rank_3/checkpoint-1_20.ckpt"
    assert record["tensors"]["layer1.weight"]["slices_compared"] == 4


def test_states_that_the_new_strategy_does_not_know_are_refused(source):
    save_strategy(source / "4.ckpt", {name: FOUR[name] for name in FOUR if not name.startswith("moment1")})
    with pytest.raises(LayoutError, match=r"moment1.layer1.weight: the new strategy doesn't know it"):
        to(source, 4)
    assert not (source / "to_4").exists()
    to(source, 4, selection=Selection(weights_only=True))
    assert list(read_checkpoint(source / "to_4" / "rank_0" / "checkpoint-1_20.ckpt")) == list(FOUR)[:3]


def test_states_in_an_integrated_file_are_refused_likewise(source):
    merged = merge(MergeRequest(source / "shards", (source / "8.ckpt",), source / "merged" / "model.ckpt"))
    save_strategy(source / "4.ckpt", {name: FOUR[name] for name in FOUR if not name.startswith("moment1")})
    with pytest.raises(LayoutError, match=r"moment1.layer1.weight: the new strategy doesn't know it"):
        reshard(ReshardRequest((source / "4.ckpt",), source / "cut", integrated=merged.output))


def test_a_rank_folder_copied_over_another_is_refused(source):
    layouts = {"w": Layout((2,), ((0,), ()))}
    save_shards(source / "two", {"w": np.arange(8, dtype=np.float32).reshape(4, 2)}, layouts, world_size=2)
    save_strategy(source / "two.ckpt", layouts)
    file = source / "two" / "rank_0" / "checkpoint-1_20.ckpt"
    (source / "two" / "rank_1" / "checkpoint-1_20.ckpt").write_bytes(file.read_bytes())
    with pytest.raises(LayoutError, match="are equal, but the strategy gives these ranks different slices"):
        reshard(ReshardRequest((source / "two.ckpt",), source / "out", source / "two", (source / "two.ckpt",)))
    assert not (source / "out").exists()


def test_a_strategy_of_another_network_is_refused(source):
    save_strategy(source / "4.ckpt", {**FOUR, "other.weight": Layout((4,), ((), ()))})
    with pytest.raises(MissingShard, match=r"knows 1 parameter that no file holds: other.weight; .*the same network"):
        to(source, 4)


def test_a_size_that_does_not_divide_is_refused(source):
    save_strategy(source / "4.ckpt", {**FOUR, "layer1.bias": Layout((4,), ((0,),))})
    with pytest.raises(LayoutError, match=r"layer1.bias: dimension 0 .* cannot be cut into 4"):
        to(source, 4)


def test_a_folder_that_is_there_is_not_touched(source):
    to(source, 4)
    before = (source / "to_4" / "reshard.json").read_bytes()
    with pytest.raises(OutputError, match="is there already, and not empty"):
        to(source, 4)
    assert (source / "to_4" / "reshard.json").read_bytes() == before


def test_damaged_replicas_leave_nothing_behind(source):
    file = source / "shards" / "rank_3" / "checkpoint-1_20.ckpt"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ReplicaMismatch, match="rank 3"):
        to(source, 4)
    assert [path.name for path in source.iterdir() if "to_4" in path.name] == []


def test_a_stage_without_parameters_is_refused(source):
    paths = [save_strategy(source / f"stage{n}.ckpt", layouts, stage=n) for n, layouts in enumerate([FOUR, {}])]
    selection = Selection(include=("layer*", "moment*"))
    request = ReshardRequest(tuple(paths), source / "out", source / "shards", (source / "8.ckpt",), selection=selection)
    with pytest.raises(LayoutError, match="pipeline stage 1 of the new strategy holds none of the 4 tensors"):
        reshard(request)


def test_a_source_must_be_named(source):
    with pytest.raises(ConfigError, match="reshard from what"):
        reshard(ReshardRequest((source / "4.ckpt",), source / "out"))


@pytest.mark.parametrize("ranks", [(3,), (0, 5, 6), tuple(range(16))])
def test_some_ranks_alone_are_written_as_among_all(source, ranks):
    to(source, 16)
    request = ReshardRequest(
        (source / "16.ckpt",), source / "some", source / "shards", (source / "8.ckpt",), ranks=ranks
    )
    resharded = reshard(request)
    assert len(resharded.digests) == len(ranks)
    record = json.loads((source / "some" / "reshard.json").read_bytes())
    assert record["ranks"] == (list(ranks) if len(ranks) < 16 else "all")
    assert record["world_size"] == 16
    found = sorted(path.name for path in (source / "some").iterdir())
    assert found == sorted(["reshard.json", *(f"rank_{rank}" for rank in ranks)])
    for rank in ranks:
        file = f"rank_{rank}/checkpoint-1_20.ckpt"
        assert (source / "some" / file).read_bytes() == (source / "to_16" / file).read_bytes()


def test_the_proof_of_some_ranks_says_what_it_compared(source):
    whole = json.loads((to(source, 16).output / "reshard.json").read_bytes())["tensors"]
    request = ReshardRequest(
        (source / "16.ckpt",), source / "some", source / "shards", (source / "8.ckpt",), ranks=(0,)
    )
    some = json.loads((reshard(request).output / "reshard.json").read_bytes())["tensors"]
    assert whole["layer1.weight"]["slices_compared"] == 16
    assert some["layer1.weight"]["slices_compared"] == 1
    assert some["layer1.weight"]["bytes_compared"] * 16 == whole["layer1.weight"]["bytes_compared"]


def test_ranks_of_one_stage_hold_what_their_stage_holds(source):
    stages = [{"layer1.weight": FOUR["layer1.weight"], "layer1.bias": FOUR["layer1.bias"]}, {
        "layer3.weight": FOUR["layer3.weight"], "moment1.layer1.weight": FOUR["moment1.layer1.weight"]
    }]  # fmt: skip
    paths = tuple(save_strategy(source / f"stage{n}.ckpt", layouts, stage=n) for n, layouts in enumerate(stages))
    reshard(ReshardRequest(paths, source / "one", source / "shards", (source / "8.ckpt",), ranks=(6,)))
    found = read_checkpoint(source / "one" / "rank_6" / "checkpoint-1_20.ckpt")
    assert list(found) == ["layer3.weight", "moment1.layer1.weight", "global_step", "learning_rate"]
    record = json.loads((source / "one" / "reshard.json").read_bytes())
    assert "layer1.weight" not in record["tensors"]


def test_replicas_that_differ_are_refused_for_some_ranks_too(source):
    file = source / "shards" / "rank_1" / "checkpoint-1_20.ckpt"
    arrays = dict(read_checkpoint(file))
    arrays["layer1.bias"] = arrays["layer1.bias"] + np.float32([0, 0, 0, 0, 0, 1])
    write_checkpoint(arrays, file)
    request = ReshardRequest((source / "16.ckpt",), source / "x", source / "shards", (source / "8.ckpt",), ranks=(15,))
    with pytest.raises(ReplicaMismatch, match=r"layer1.bias.*rank 1"):
        reshard(request)


@pytest.mark.parametrize(("ranks", "found"), [((16,), r"\[16\]"), ((), "none"), ((0, 3, 99, 200), r"\[99, 200\]")])
def test_ranks_that_the_strategy_has_not_are_refused(source, ranks, found):
    request = ReshardRequest((source / "16.ckpt",), source / "x", source / "shards", (source / "8.ckpt",), ranks=ranks)
    with pytest.raises(ConfigError, match=f"some of ranks 0 to 15 of the new strategy, found {found}"):
        reshard(request)


def test_without_a_new_strategy_it_is_one_rank_if_asked_for(source):
    request = ReshardRequest((), source / "one", source / "shards", (source / "8.ckpt",))
    with pytest.raises(ConfigError, match=r"reshard to what.*--unsharded"):
        reshard(request)
    reshard(replace(request, unsharded=True))
    assert_slices(source / "one", ONE, 1)
    with pytest.raises(ConfigError, match="reshard to what"):
        reshard(replace(request, unsharded=True, to_strategies=(source / "4.ckpt",)))


def test_more_files_than_the_system_lets_one_process_open_are_refused_in_words(source):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24));"
        "from shardline.cli.main import main; raise SystemExit(main())"
    )
    command = ["reshard", "--shards", "shards", "--strategy", "8.ckpt", "--to-strategy", "16.ckpt", "--output", "many"]
    run = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=source, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    )  # fmt: skip
    assert run.returncode != 0
    assert "29 files have to be open at once, the system lets this process have 24" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (source / "many").exists()
