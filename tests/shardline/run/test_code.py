"""Which code a run records: Shardline's own, and the user's program's."""

import sys
from pathlib import Path

import pytest

import shardline
from shardline.base.errors import RunDirectoryError
from shardline.run import git_checkout
from shardline.run.code import read_code, record_code
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.run.git_checkout import checkout_at
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import config_of
from shardline.settings.training_file import read_training
from tests.patience import PATIENCE_S
from tests.shardline.run.test_git_checkout import git

FILE = """
name = "mine"
command = ["{python}", "SCRIPT"]
working_directory = "{run_directory}"
[slices]
files = "ckpt/rank_*/*.ckpt"
integrated = true
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(git_checkout, "TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def run(home: Home) -> RunDirectory:
    run = RunDirectory(home.run("dag", "run"))
    run.path.mkdir(parents=True)
    return run


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The user's checkout, with a program that is committed."""
    folder = tmp_path / "program"
    (folder / "descriptions").mkdir(parents=True)
    (folder / "train.py").write_text("print(1)\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def described(file: Path, script: Path | str):
    file.write_text(FILE.replace("SCRIPT", str(script)))
    return config_of(read_training(file), file, "{}")


def test_a_built_in_network_s_code_is_shardline_s(home, run):
    record_code(run, home, RunConfig())
    own = checkout_at(PROJECT)
    commit = {"commit": own and own.commit, "changed": own and own.changed}
    assert read_code(run) == [{"shardline": {"version": shardline.__version__, **commit}, "program": None}]


def test_a_described_training_s_code_is_its_script_s_and_each_change_of_it_is_kept_once(home, run, program, tmp_path):
    config = described(tmp_path / "mine.toml", program / "train.py")
    first = git(program, "rev-parse", "HEAD")
    for _ in range(2):
        record_code(run, home, config)
    (program / "train.py").write_text("print(2)\n")
    record_code(run, home, config)
    git(program, "commit", "-q", "-a", "-m", "second")
    record_code(run, home, config)
    found = [code["program"] for code in read_code(run)]
    second = git(program, "rev-parse", "HEAD")
    assert [(code["commit"], code["changed"]) for code in found] == [(first, False), (first, True), (second, False)]
    assert {code["folder"] for code in found} == {str(program)}


def test_a_script_outside_a_checkout_leaves_the_description_s_commit(home, run, program, tmp_path):
    (tmp_path / "train.py").write_text("")
    config = described(program / "descriptions" / "mine.toml", tmp_path / "train.py")
    record_code(run, home, config)
    found = read_code(run)[-1]["program"]
    assert (found["commit"], found["changed"]) == (git(program, "rev-parse", "HEAD"), True)  # it is not committed


def test_a_run_directory_in_somebody_s_checkout_is_none_of_its_code(run, tmp_path):
    """As in Shardline's own, below `var`."""
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    (run.path / "train.py").write_text("")
    config = described(run.path / "mine.toml", "train.py")
    record_code(run, Home(tmp_path / "home"), config)
    assert read_code(run)[-1]["program"] is None


def test_a_program_without_a_checkout_has_a_folder_and_no_commit(home, run, tmp_path):
    (tmp_path / "train.py").write_text("")
    record_code(run, home, described(tmp_path / "mine.toml", tmp_path / "train.py"))
    assert read_code(run)[-1]["program"] == {"folder": str(tmp_path), "commit": None, "changed": None}


def test_a_network_s_module_is_found_and_not_imported(home, run, program, monkeypatch):
    (program / "nets").mkdir()
    (program / "nets" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (program / "nets" / "mine.py").write_text("raise RuntimeError('imported')\n")
    git(program, "add", ".")
    git(program, "commit", "-q", "-m", "nets")
    monkeypatch.setattr(sys, "path", [str(program), *sys.path])
    record_code(run, home, RunConfig(network="nets.mine:factory"))
    commit = git(program, "rev-parse", "HEAD")
    assert read_code(run)[-1]["program"] == {"folder": str(program / "nets"), "commit": commit, "changed": False}
    record_code(run, home, RunConfig(network="nowhere.mine:factory"))
    assert read_code(run)[-1]["program"] is None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 2, "code": []}', '{"format": 1, "code": [{"shardline": 1}]}']
)
def test_a_damaged_record_is_refused_by_name(home, run, content):
    run.code_file.write_text(content)
    with pytest.raises(RunDirectoryError, match=r"code\.json: expected which code the run was made with .*remove it"):
        record_code(run, home, RunConfig())


def test_a_run_of_an_earlier_shardline_has_none(run):
    assert read_code(run) == []
