"""Every option is honoured, or refused by name: none is read and ignored."""

import argparse
import json
import os

import numpy as np
import pytest

from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.merging.publish import parts_folder
from shardline.cli import merge_command, parts_command
from shardline.cli.given import given_options, refuse, refuse_others
from shardline.cli.options import add_merge_options, parser
from shardline.run.directory import RunDirectory
from tests.tasks.test_merge import save_run

VALUES = {"--format": "ckpt", "--max-file-size": "5GB", "--dtype": "float32", "--workers": "2", "--parts": "3"}


def options(arguments: argparse.ArgumentParser) -> list[tuple[str, ...]]:
    """Every option of a command, with a value where it takes one."""
    return [
        (action.option_strings[-1],)
        if action.nargs == 0
        else (action.option_strings[-1], VALUES.get(action.option_strings[-1], "x"))
        for action in arguments._actions
        if action.option_strings and action.dest != "help"
    ]


MERGE = options(parser(""))
PLAN = options(parts_command._parser()._subparsers._group_actions[0].choices["plan"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SHARDLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    save_run(directory := RunDirectory(tmp_path / "run"), {})
    return directory


def contents(run: RunDirectory) -> list[str]:
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.name != ".lock")


@pytest.mark.parametrize("option", MERGE, ids=lambda option: option[0])
def test_an_option_beside_a_run_is_honoured_or_refused_by_name(run, option, capsys):
    before = contents(run)
    code = merge_command.main(["--run-directory", str(run.path), *option])
    out, errors = capsys.readouterr()
    if option[0] in ("--run-directory", "--dry-run"):  # `x` is no run
        assert contents(run) == before
    elif option[0] in merge_command.OF_A_RUN:
        assert code == 0
        assert run.merge_file.is_file()
    else:
        assert code == 2
        assert ("--run-directory: --verify" if option[0] == "--verify" else f"{option[0]}: ") in errors
        assert out == ""
        assert contents(run) == before


def test_a_dry_run_of_a_run_is_a_forecast(run, capsys):
    before = contents(run)
    assert merge_command.main(["--run-directory", str(run.path), "--dry-run"]) == 0
    forecast = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (forecast["output"], forecast["step"], forecast["ranks"]) == (["model.ckpt"], "20", 8)
    assert contents(run) == before
    assert merge_command.main(["--run-directory", str(run.path)]) == 0
    assert forecast["bytes_written"] == (run.merged / "model.ckpt").stat().st_size


@pytest.mark.parametrize("option", MERGE, ids=lambda option: option[0])
def test_an_option_beside_verify_is_honoured_or_refused_by_name(run, option, capsys):
    merge_command.main(["--run-directory", str(run.path)])
    capsys.readouterr()
    code = merge_command.main(["--verify", str(run.merged / "model.ckpt"), *option])
    _, errors = capsys.readouterr()
    if option[0] == "--verify":
        assert "x: expected its record" in errors
    elif option[0] in merge_command.OF_VERIFY:
        assert code == 0
    else:
        assert code == 2
        assert f"{option[0]}: --verify compares a merged file with its record" in errors


@pytest.mark.parametrize("option", PLAN, ids=lambda option: option[0])
def test_an_option_beside_the_plan_of_a_run_is_honoured_or_refused_by_name(run, option, capsys):
    before = contents(run)
    code = parts_command.main(["plan", "--run-directory", str(run.path), *option])
    out, errors = capsys.readouterr()
    if option[0] == "--run-directory":
        assert code != 0
    elif option[0] in parts_command.OF_A_RUN:
        assert code == 0
        assert len(json.loads(out.splitlines()[-1])["parts"]) == (3 if option[0] == "--parts" else 1)
    else:
        assert code == 2
        assert f"{option[0]}: " in errors
        assert contents(run) == before


@pytest.mark.parametrize("option", [["--parts", "2"], ["--workers", "2"], ["--dry-run"], ["--no-proof"]])
def test_what_a_plan_by_hand_cannot_obey_is_refused(run, option, capsys):
    output = run.path / "out" / "model.ckpt"
    command = ["plan", "--shards", str(run.checkpoints), "--strategy", str(run.path / "src_strategy.ckpt")]
    assert parts_command.main([*command, "--output", str(output), *option]) == 2
    assert f"{option[0]}: " in capsys.readouterr().err
    assert not output.parent.exists()


@pytest.mark.parametrize("step", [["write", "--part", "1/1"], ["commit"]])
def test_the_output_of_a_part_of_a_run_is_the_run_s(run, step, capsys):
    assert parts_command.main([*step, "--run-directory", str(run.path), "--output", "x.ckpt"]) == 2
    assert "--output: the run's own parameters say" in capsys.readouterr().err


def test_json_prints_the_result_alone(run, capfd):
    output = str(run.path / "out" / "model.ckpt")
    given = ["--shards", str(run.checkpoints), "--strategy", str(run.path / "src_strategy.ckpt"), "--output", output]
    for command in (["plan", *given], ["write", "--output", output, "--part", "1/1"], ["commit", "--output", output]):
        assert parts_command.main([*command, "--json"]) == 0
        out, errors = capfd.readouterr()
        assert (len(out.splitlines()), errors) == (1, "")
    assert not parts_folder(run.path / "out" / "model.ckpt").exists()


def test_what_was_not_compared_is_not_counted_as_verified(run, tmp_path, capsys):
    (tmp_path / "whole" / "rank_0").mkdir(parents=True)
    write_checkpoint({"w": np.zeros(3, np.float32)}, tmp_path / "whole" / "rank_0" / "net-1_1.ckpt")
    output = str(tmp_path / "out" / "model.ckpt")
    given = ["--shards", str(tmp_path / "whole"), "--integrated", "--output", output, "--no-proof"]
    assert merge_command.main(given) == 0
    assert merge_command.main(["--verify", output]) == 0
    out, errors = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["tensors"] == 0
    assert "1 of 1 tensor was merged without proof" in errors


def test_given_are_the_options_that_are_not_their_defaults():
    arguments = argparse.ArgumentParser()
    add_merge_options(arguments)
    parsed = arguments.parse_args(["--crc", "--include", "a", "b", "--step", ""])
    assert given_options(arguments, parsed) == ["--step", "--include", "--crc"]


def test_a_refusal_names_the_options_and_the_reason():
    refuse([], "no reason")
    refuse_others(["--a"], ["--a", "--b"], "no reason")
    with pytest.raises(ConfigError, match=r"^--a: it is ours; leave it out$"):
        refuse(["--a"], "it is ours")
    with pytest.raises(ConfigError, match=r"^--a, --b: they are ours; leave them out$"):
        refuse_others(["--b", "--a", "--c"], ["--c"], "they are ours")
