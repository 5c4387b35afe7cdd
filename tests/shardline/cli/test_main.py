"""`shardline COMMAND`: which there are, and what is said where one cannot run."""

import sys
from types import SimpleNamespace

import pytest

from shardline.cli import main as cli


def test_every_command_is_listed_and_has_its_help(capsys):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"\n  {command} " in listed
        with pytest.raises(SystemExit) as left:
            cli.main([command, "--help"])
        assert left.value.code == 0
        assert f"usage: shardline {command}" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "said"), [([], "which command?"), (["mrege"], "no command 'mrege'")])
def test_without_a_command_they_are_listed(arguments, said, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"shardline: {said}\n")
    assert "merge-parts" in error


def command_that_imports(name: str, monkeypatch) -> None:
    def main(arguments: list[str]) -> int:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setitem(sys.modules, "shardline.cli.models_command", SimpleNamespace(main=main))


def test_a_package_that_is_missing_is_named(capsys, monkeypatch):
    command_that_imports("pydantic", monkeypatch)
    assert cli.main(["models", "list"]) == 2
    assert capsys.readouterr().err == (
        "ConfigError: shardline models needs the package pydantic, which is not installed; install it, or all that "
        "trainings need: pip install 'shardline[train]'\n"
    )


def test_a_module_of_ours_that_is_missing_is_a_defect(monkeypatch):
    command_that_imports("shardline.none", monkeypatch)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["models", "list"])
