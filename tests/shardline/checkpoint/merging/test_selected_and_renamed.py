"""What a selection does to a whole merge or resharding: its bytes, its record, and what the user is told."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import ConfigError, LayoutError, MissingShard
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.parts import Part, commit_parts, plan_parts, write_part
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.renaming import Rule
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.sharding import LAYOUTS, save_shards, save_strategy, tensors

PROJECT = Path(__file__).parents[4]
RULES = (Rule(r"layer(\d)\.(.*)", r"blocks.\1.\2", "names.txt:1"), Rule("unused", "x", "names.txt:2"))
NEW = {"layer1.weight": "blocks.1.weight", "layer1.bias": "blocks.1.bias", "layer3.weight": "blocks.3.weight"}
WEIGHTS = {name: layout for name, layout in LAYOUTS.items() if name in NEW}
ROWS = Layout((4,), ((0,), ()))
TARGET = {"layer1.weight": ROWS, "layer1.bias": Layout((4,), ((),)), "layer3.weight": ROWS}
MOMENTS = {f"{state}.{name}": layout for state in ("moment1", "moment2") for name, layout in TARGET.items()}


def expected(names=NEW):
    return {names.get(name, name): array for name, array in tensors().items()}


def assert_holds(file, arrays):
    found = read_checkpoint(file)
    assert sorted(found) == sorted(arrays)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


@pytest.fixture
def pretrained(tmp_path):
    """Weights alone in one file, and a training strategy that knows two states of each as well."""
    write_checkpoint({name: tensors()[name] for name in NEW}, tmp_path / "full.ckpt")
    save_strategy(tmp_path / "train.ckpt", TARGET | MOMENTS)
    return tmp_path


def to_training(path, *, strategy="train.ckpt", **selection: object):
    return reshard(
        ReshardRequest(
            to_strategies=(path / strategy,),
            output=path / "out",
            integrated=path / "full.ckpt",
            selection=Selection(**selection),
        )
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model.ckpt", {}),
        ("model.safetensors", {}),
        ("model.safetensors", {"max_file_size": 300}),
        ("m.ckpt", {"crc": 1}),
    ],
)
def test_renamed_tensors_are_merged_proved_and_recorded(case, name, options):
    output = case.path / "new" / name
    merged = merge(MergeRequest(case.shards, (case.strategy,), output, selection=Selection(rename=RULES), **options))
    entries = {entry["name"]: entry for entry in merged.record["tensors"]}
    assert entries["blocks.1.bias"]["source_name"] == "layer1.bias"
    assert "source_name" not in entries["moment1.layer1.weight"]
    assert merged.record["options"]["rename"] == [[r"layer(\d)\.(.*)", r"blocks.\1.\2"], ["unused", "x"]]
    assert merged.record["proof"]["tensors"] == len(entries)
    assert "names.txt:2 renames none of the 6 tensors" in merged.notices
    found = output if "max_file_size" not in options else output.with_name(f"{output.name}.index.json")
    verify(found)
    files = {entry["file"] for entry in entries.values()}
    held = {name: array for file in files for name, array in read_checkpoint(output.with_name(file)).items()}
    assert held.keys() == expected().keys()
    assert all(np.array_equal(held[name], array) for name, array in expected().items())


def test_parts_rename_as_one_process_does(case):
    outputs = [case.path / "whole" / "model.ckpt", case.path / "parts" / "model.ckpt"]
    whole, parts = (
        MergeRequest(case.shards, (case.strategy,), output, selection=Selection(rename=RULES)) for output in outputs
    )
    merge(whole)
    plan_parts(parts)
    for number in (2, 1):
        write_part(parts.output, Part(number, 2))
    commit_parts(parts.output)
    assert [path.read_bytes() for path in sorted(outputs[0].parent.iterdir())] == [
        path.read_bytes() for path in sorted(outputs[1].parent.iterdir())
    ]


def test_a_clash_of_names_changes_nothing(case):
    clash = Selection(rename=(Rule(r"layer\d\.weight", "w", "names.txt:1"),))
    case.refused(
        ConfigError, "names.txt:1: 'layer1.weight' and 'layer3.weight' would both be named 'w'", selection=clash
    )


def test_renaming_again_with_other_rules_merges_again(case):
    assert not case.merge(selection=Selection(rename=RULES)).was_up_to_date
    assert case.merge(selection=Selection(rename=RULES)).was_up_to_date
    assert not case.merge(selection=Selection(rename=RULES[:1])).was_up_to_date


def test_resharding_cuts_by_the_new_names(case):
    save_strategy(case.path / "4.ckpt", {NEW[name]: layout for name, layout in TARGET.items()})
    request = ReshardRequest(
        to_strategies=(case.path / "4.ckpt",),
        output=case.path / "resharded",
        shards=case.shards,
        strategies=(case.strategy,),
        selection=Selection(weights_only=True, rename=RULES),
    )
    reshard(request)
    record = json.loads((request.output / "reshard.json").read_text())
    assert record["tensors"]["blocks.3.weight"]["source_name"] == "layer3.weight"
    merge(MergeRequest(request.output, request.to_strategies, case.path / "again" / "model.ckpt"))
    assert_holds(case.path / "again" / "model.ckpt", {NEW[name]: tensors()[name] for name in NEW})


def test_a_list_of_trainable_parameters_is_kept_alone(case):
    merged = case.merge(selection=Selection(weights_only=True, trainable=("layer1.bias", "moment1.layer1.weight")))
    assert sorted(read_checkpoint(merged.output)) == ["layer1.bias", "moment1.layer1.weight"]
    assert merged.record["options"]["trainable"] == ["layer1.bias", "moment1.layer1.weight"]


def test_what_is_left_out_is_told(case):
    merged = case.merge(selection=Selection(weights_only=True, exclude=("*.nothing",)))
    assert "--exclude '*.nothing' matches no tensor" in merged.notices
    assert any("1 as optimizer state (moment1.layer1.weight)" in notice for notice in merged.notices)


def test_weights_saved_alone_are_merged_with_the_training_strategy(case):
    states = {f"{state}.{name}": layout for state in ("moment1", "moment2") for name, layout in WEIGHTS.items()}
    save_strategy(case.strategy, WEIGHTS | states)
    save_shards(case.path / "weights", {name: tensors()[name] for name in NEW})
    merged = merge(MergeRequest(case.path / "weights", (case.strategy,), case.path / "new" / "model.ckpt"))
    assert_holds(merged.output, {name: tensors()[name] for name in NEW})
    assert merged.notices[0].startswith("the weights alone are there: 6 optimizer states")


@pytest.mark.parametrize("selection", [{}, {"weights_only": True}, {"exclude": ("moment*",)}, {"include": ("layer*",)}])
def test_pretrained_weights_are_cut_for_a_training_strategy(pretrained, selection):
    resharded = to_training(pretrained, **selection)
    told = any(notice.startswith("the weights alone are there: 6") for notice in resharded.notices)
    assert told == (not selection)
    save_strategy(pretrained / "weights.ckpt", TARGET)
    merged = merge(MergeRequest(resharded.output, (pretrained / "weights.ckpt",), pretrained / "again" / "model.ckpt"))
    assert_holds(merged.output, {name: tensors()[name] for name in NEW})


def test_adapters_that_the_pretrained_weights_lack_are_left_out_by_name(pretrained):
    save_strategy(pretrained / "lora.ckpt", TARGET | {"layer1.weight.lora_a": ROWS})
    with pytest.raises(MissingShard, match=r"full.ckpt: .*knows 1 .*no file holds: layer1.weight.lora_a; .*--exclude"):
        to_training(pretrained, strategy="lora.ckpt", weights_only=True)
    assert to_training(pretrained, strategy="lora.ckpt", exclude=("*lora*",)).notices == ()


def test_a_state_that_the_target_does_not_know_is_refused_however_its_name_is_joined(tmp_path):
    arrays = {"w": np.ones((8, 4), np.float32), "exp_avg_sq_w": np.zeros((8, 4), np.float32)}
    write_checkpoint(arrays, tmp_path / "full.ckpt")
    save_strategy(tmp_path / "target.ckpt", {"w": ROWS})
    with pytest.raises(LayoutError, match=r"exp_avg_sq_w: the new strategy doesn't know it"):
        to_training(tmp_path, strategy="target.ckpt")


def test_a_state_cut_like_its_parameter_is_refused_however_its_name_is_joined(tmp_path):
    arrays = {"w": np.ones((8, 4), np.float32), "optimizer.exp_avg.w": np.zeros((8, 4), np.float32)}
    save_shards(tmp_path / "shards", arrays, dict.fromkeys(arrays, ROWS), world_size=4)
    save_strategy(tmp_path / "s.ckpt", {"w": ROWS})
    request = MergeRequest(tmp_path / "shards", (tmp_path / "s.ckpt",), tmp_path / "out" / "model.ckpt")
    with pytest.raises(LayoutError, match=r"optimizer.exp_avg.w: the strategy knows w, which is split, but not this"):
        merge(request)


def run_command(module, case, *options: str):
    source = ["--shards", str(case.shards), "--strategy", str(case.strategy)]
    command = [sys.executable, "-m", module, *source, *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_the_command_takes_lists_and_rules(case):
    (case.path / "names.txt").write_text("layer1.bias\nlayer3.weight\n")
    (case.path / "rules.txt").write_text("(.*)\\.bias = \\1.b\n")
    options = ["--trainable-from", str(case.path / "names.txt"), "--rename", str(case.path / "rules.txt")]
    done = run_command("tasks.merge", case, *options, "--output", str(case.path / "new" / "model.ckpt"))
    assert "left out: 2 as optimizer states" in done.stderr
    assert_holds(
        case.path / "new" / "model.ckpt",
        {"layer1.b": tensors()["layer1.bias"], "layer3.weight": tensors()["layer3.weight"]},
    )


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("tasks.merge", ["--output", "NEW/model.ckpt"]),
        ("tasks.merge", ["--output", "NEW/model.ckpt", "--dry-run"]),
        ("tasks.reshard", ["--output", "NEW", "--unsharded"]),
    ],
)
def test_a_machine_readable_result_has_the_notices(case, module, options):
    given = [option.replace("NEW", str(case.path / "new")) for option in options]
    done = run_command(module, case, *given, "--weights-only", "--json")
    assert any("left out: 1 as optimizer state" in notice for notice in json.loads(done.stdout)["notices"])
    assert done.stderr == ""


def test_checkpoint2_is_written_and_read_by_the_new_names(case):
    save_strategy(case.path / "4.ckpt", {NEW[name]: layout for name, layout in TARGET.items()} | {"m.w": ROWS})
    rules = (*RULES, Rule(r"moment1\.layer1\.weight", "m.w"))
    request = ReshardRequest(
        to_strategies=(case.path / "4.ckpt",),
        output=case.path / "dcp",
        shards=case.shards,
        strategies=(case.strategy,),
        file_format="checkpoint2",
        iteration=20,
        selection=Selection(rename=rules),
    )
    reshard(request)
    again = merge(
        MergeRequest(
            request.output,
            (),
            case.path / "again" / "model.ckpt",
            selection=Selection(weights_only=True, rename=(Rule(r"blocks\.(\d)\.(.*)", r"layer\1.\2"),)),
        )
    )
    assert_holds(again.output, {name: tensors()[name] for name in NEW})
