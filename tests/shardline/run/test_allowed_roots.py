"""No path that parameters give leads a task to what only its worker may read, and no message shows what is there.

Each parameter is tried by the task that reads it: the path of its own environment as the DAG starts it, in a process
that has one, the others by the task's `main` in this process.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.directory import Home
from shardline.run.environment import PROJECT
from tests.commands import run_here
from tests.patience import PATIENCE_S

SECRET = "hunter2-of-the-worker"
OF_A_PROCESS = "/proc/self/environ"
PREPARE = {
    "text_file": {"data_source": "text", "network": "gpt"},
    "data_directory": {"data_source": "directory"},
    "start_file": {},
    "strategy_load_file": {},
    "resume_from": {},
}
MERGE = {
    "shards": {"integrated": True},
    "strategy": {"shards": "FOLDER"},
    "target_strategy": {"shards": "FOLDER", "integrated": False, "strategy": ["FILE"]},
    "rename": {"shards": "FOLDER", "integrated": True},
}


@pytest.fixture
def home(tmp_path) -> Path:
    """HOME, with a link out of it, one in a circle, a pipe and a socket; a secret lies beside it."""
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / "file").write_bytes(b"x" * 100)
    (tmp_path / "secret").write_text(f"{SECRET}\n" * 10)
    (home / "out").symlink_to(tmp_path / "secret")
    (home / "circle").symlink_to(home / "circle")
    os.mkfifo(home / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(home / "socket"))
        yield home


def bad_paths(home: Path) -> dict[str, str]:
    return {
        "/proc/self/environ": "expected a path below",
        "/etc/shadow": "expected a path below",
        str(home.parent / "secret"): "expected a path below",
        f"{home}/../secret": "expected a path below",
        f"{home}/folder/../../secret": "expected a path below",
        f"{home}/out": "expected a path below .*, which is .*/secret",
        f"{home}/circle": "no path that can be followed|there is no ",
        f"{home}/pipe": "expected a (regular file|folder), found that .*pipe is none",
        f"{home}/socket": "expected a (regular file|folder), found that .*socket is none",
        f"{home}/none": "there is no .*none",
        f"{home}/{'n' * 300}": "name too long",
        "/dev/zero": "expected a path below",
        "/dev/stdin": "expected a path below",
        f"{home}/$SHARDLINE_SECRET": "there is no ",
    }


def environment_of_task(home: Path, parameters: dict) -> dict[str, str]:
    """As the DAG starts it, with a secret, and no root but HOME."""
    variables = {name: value for name, value in os.environ.items() if name != "SHARDLINE_ALLOWED_ROOTS"}
    run = {"SHARDLINE_DAG_ID": "sharded_training", "SHARDLINE_RUN_ID": "manual__1", "SHARDLINE_HOME": str(home)}
    return variables | run | {"SHARDLINE_PARAMETERS": json.dumps(parameters), "SHARDLINE_SECRET": SECRET}


def run_task(home: Path, module: str, parameters: dict) -> subprocess.CompletedProcess[str]:
    """The task in a process of its own where it may find its own environment, or else in this one."""
    environment = environment_of_task(home, parameters)
    if OF_A_PROCESS not in environment["SHARDLINE_PARAMETERS"]:
        return run_here(importlib.import_module(module)._command_line, [], environment)
    return subprocess.run(
        [sys.executable, "-m", module],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def refused(finished: subprocess.CompletedProcess[str], parameter: str) -> str:
    said = finished.stdout + finished.stderr
    assert finished.returncode == 2, said
    assert f"ConfigError: {parameter}: " in said
    assert "Traceback" not in said
    assert SECRET not in said
    assert "root:" not in said
    return said


# Every kind is tried on the rule itself, and on the parameters those that differ by who resolves them.
@pytest.mark.parametrize("parameter", PREPARE)
@pytest.mark.parametrize("path", [OF_A_PROCESS, "/etc/shadow", "HOME/out", "HOME/../secret", "HOME/pipe"])
def test_preparing_refuses_a_path_that_is_not_allowed(home, parameter, path):
    path = path.replace("HOME", str(home))
    refused(run_task(home, "tasks.prepare_dataset", PREPARE[parameter] | {parameter: path}), parameter)


@pytest.mark.parametrize("parameter", MERGE)
@pytest.mark.parametrize("path", [OF_A_PROCESS, "/etc/shadow", "HOME/out", "HOME/../secret", "HOME/pipe"])
def test_merging_refuses_a_path_that_is_not_allowed(home, parameter, path):
    path = path.replace("HOME", str(home))
    given = MERGE[parameter] | {parameter: path if parameter in ("shards", "rename") else [path]}
    text = json.dumps(given).replace("FOLDER", f"{home}/folder").replace("FILE", f"{home}/file")
    refused(run_task(home, "tasks.merge_checkpoint", json.loads(text)), parameter)


@pytest.mark.parametrize("meant", ["file", "folder"])
def test_every_kind_of_bad_path_is_refused_in_words(home, meant):
    roots = AllowedRoots.of(Home(home), {})
    for path, message in bad_paths(home).items():
        with pytest.raises(ConfigError, match=f"(?i)^some_path: .*({message})"):
            getattr(roots, meant)(Path(path), "some_path")
    with pytest.raises(ConfigError, match=r"^some_path: .*null"):
        getattr(roots, meant)(Path("\0"), "some_path")


def test_what_is_allowed_is_found(home, tmp_path):
    roots = AllowedRoots.of(Home(home), {})
    (home / "link").symlink_to(home / "file")
    assert roots.file(home / "link", "text_file") == home / "file"
    assert roots.folder(home / "folder" / ".." / "folder", "shards") == home / "folder"
    assert roots.read(home / "file", "hostfile", 100) == b"x" * 100
    with pytest.raises(ConfigError, match="hostfile: expected a file of at most 99 bytes, found more in"):
        roots.read(home / "file", "hostfile", 99)
    for setting in ("SHARDLINE_ALLOWED_ROOTS", "SHARDLINE_MERGE_ROOTS"):  # the second is its earlier name
        more = AllowedRoots.of(Home(home), {setting: f"/nowhere:{tmp_path}"})
        assert more.file(home / "out", "text_file") == tmp_path / "secret"


def test_a_root_through_a_link_is_the_folder_that_it_leads_to(home, tmp_path):
    (tmp_path / "way").symlink_to(home)
    assert AllowedRoots.of(Home(tmp_path / "way"), {}).file(tmp_path / "way" / "file", "text_file") == home / "file"


def test_a_folder_beside_a_root_is_none_of_it(home, tmp_path):
    (tmp_path / "home2").mkdir()
    with pytest.raises(ConfigError, match="expected a path below"):
        AllowedRoots.of(Home(home), {}).folder(tmp_path / "home2", "data_directory")


def test_what_is_the_kernels_own_is_refused_even_where_all_is_allowed(home):
    roots = AllowedRoots.of(Home(home), {"SHARDLINE_ALLOWED_ROOTS": "/"})
    assert roots.file(Path("/etc/passwd"), "text_file") == Path("/etc/passwd")
    for path in ("/proc/self/environ", "/dev/zero", "/sys/kernel/notes", "/dev/stdin"):
        with pytest.raises(ConfigError, match="expected a path below"):
            roots.file(Path(path), "text_file")


def test_links_in_a_folder_do_not_lead_out_of_it_either(home, tmp_path):
    data = home / "digits"
    data.mkdir()
    (data / "train-images-idx3-ubyte").symlink_to(tmp_path / "secret")
    parameters = {"data_source": "directory", "data_directory": str(data)}
    assert "train-images" in refused(run_task(home, "tasks.prepare_dataset", parameters), "data_directory")


def test_a_run_of_the_same_dag_is_resumed_from_by_its_id_and_not_through_a_link(home, tmp_path):
    runs = home / "runs" / "sharded_training"
    runs.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (runs / "evil").symlink_to(tmp_path / "elsewhere")
    refused(run_task(home, "tasks.prepare_dataset", {"resume_from": "evil"}), "resume_from")
    (runs / "before" / "src_checkpoints").mkdir(parents=True)
    (runs / "before" / "src_checkpoints" / "provenance").symlink_to("/etc")
    refused(run_task(home, "tasks.prepare_dataset", {"resume_from": "before"}), "resume_from")
    (runs / "before" / "src_checkpoints" / "provenance").unlink()
    assert "holds no complete shard set" in run_task(home, "tasks.prepare_dataset", {"resume_from": "before"}).stderr
    (runs / "before" / "src_checkpoints" / "shard_set-1.json").write_text("{}")
    assert run_task(home, "tasks.prepare_dataset", {"resume_from": "before"}).returncode == 0
