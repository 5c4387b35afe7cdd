from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import PromotionError
from shardline.run.directory import Home
from shardline.run.environment import PROJECT
from shardline.store import version
from shardline.store.model_store import ModelStore, current
from shardline.store.version import Candidate
from tests.durability import recorded


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def store(home: Home) -> ModelStore:
    return ModelStore(home, "digits")


def candidate(folder: Path, run: str = "runs/a/1", content: bytes = b"weights", accuracy: float = 0.9) -> Candidate:
    model = folder / f"{run.replace('/', '-')}.ckpt"
    model.write_bytes(content)
    return Candidate(
        run, model, file_digest(model), "accuracy", accuracy, 700, {"report.json": b"{}", "config.json": b"[]"}
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_before_the_first_promotion_there_is_nothing(home: Home, store: ModelStore):
    assert current(home, "digits") is None
    assert store.versions() == []
    assert not store.path.exists()


def test_a_version_holds_all_files_read_only_with_their_digests(home: Home, store: ModelStore, tmp_path: Path):
    version = store.add(candidate(tmp_path))
    assert version.path == home.models / "digits" / "versions" / "1"
    assert names(version.path) == ["config.json", "report.json", "runs-a-1.ckpt", "version.json"]
    assert {file.stat().st_mode & 0o777 for file in version.path.iterdir()} == {0o444}
    assert version.model_file.read_bytes() == b"weights"
    description = json.loads((version.path / "version.json").read_bytes())
    assert description == {
        "version": 1,
        "digest": file_digest(version.model_file),
        "metric": "accuracy",
        "accuracy": 0.9,
        "step": 700,
        "run": "runs/a/1",
        "model": "runs-a-1.ckpt",
        "files": {name: file_digest(version.path / name) for name in ("config.json", "report.json", "runs-a-1.ckpt")},
    }
    version.verify()


def test_a_version_is_on_disk_before_current_names_it(store: ModelStore, tmp_path: Path):
    with recorded(tmp_path) as durability:
        version = store.add(candidate(tmp_path))
    durability.check(version.path, store.path / "current")
    durability.check_order(version.path, store.path / "current")


def test_going_back_is_on_disk_when_it_returns(store: ModelStore, tmp_path: Path):
    for run in ("runs/a/1", "runs/a/2"):
        store.add(candidate(tmp_path, run))
    with recorded(tmp_path) as durability:
        store.roll_back(1)
    durability.check(store.path / "current")


def test_a_version_from_before_there_were_other_metrics_is_read(store: ModelStore, tmp_path: Path):
    file = store.add(candidate(tmp_path)).path / "version.json"
    description = json.loads(file.read_bytes())
    del description["metric"]
    file.chmod(0o644)
    file.write_text(json.dumps(description))
    assert [(version.metric, version.value) for version in store.versions()] == [("accuracy", 0.9)]


def test_the_store_keeps_its_own_copy(store: ModelStore, tmp_path: Path):
    promoted = candidate(tmp_path)
    version = store.add(promoted)
    promoted.model.write_bytes(b"changed")
    version.verify()


def test_current_follows_the_newest_version(home: Home, store: ModelStore, tmp_path: Path):
    for number in (1, 2, 3):
        version = store.add(candidate(tmp_path, run=f"runs/a/{number}"))
        assert version.version == number
        assert current(home, "digits") == version
    assert (store.path / "current").readlink() == Path("versions/3")
    assert [version.version for version in store.versions()] == [1, 2, 3]


def test_versions_are_ordered_by_number_not_by_text(store: ModelStore, tmp_path: Path):
    for number in range(1, 12):
        store.add(candidate(tmp_path, run=f"runs/a/{number}"))
    assert [version.version for version in store.versions()] == list(range(1, 12))


def test_the_same_run_with_the_same_digest_is_one_version(store: ModelStore, tmp_path: Path):
    first = store.add(candidate(tmp_path))
    assert store.add(candidate(tmp_path)) == first
    assert names(store.path / "versions") == ["1"]


def test_another_run_or_another_digest_is_another_version(store: ModelStore, tmp_path: Path):
    store.add(candidate(tmp_path))
    assert store.add(candidate(tmp_path, run="runs/a/2")).version == 2
    assert store.add(candidate(tmp_path, content=b"other weights")).version == 3


def test_promoting_an_older_run_again_does_not_turn_current_back(store: ModelStore, tmp_path: Path):
    store.add(candidate(tmp_path, run="runs/a/1"))
    store.add(candidate(tmp_path, run="runs/a/2"))
    assert store.add(candidate(tmp_path, run="runs/a/1")).version == 1
    now = store.current()
    assert now is not None
    assert now.version == 2


def test_a_checkpoint_that_is_not_the_validated_one_is_refused(store: ModelStore, tmp_path: Path):
    promoted = candidate(tmp_path)
    promoted.model.write_bytes(b"Weights")
    with pytest.raises(PromotionError, match="changed since; clear merge"):
        store.add(promoted)
    assert names(store.path / "versions") == []
    assert store.current() is None


def test_roll_back_and_forward(store: ModelStore, tmp_path: Path):
    for number in (1, 2):
        store.add(candidate(tmp_path, run=f"runs/a/{number}"))
    for number in (1, 2):
        assert store.roll_back(number).version == number
        now = store.current()
        assert now is not None
        assert now.version == number
    with pytest.raises(PromotionError, match="no version 7; there are 1, 2"):
        store.roll_back(7)


def test_what_a_killed_change_left_is_removed_by_any_other(store: ModelStore, tmp_path: Path):
    """Even by a promotion that finds its version there, and a later one current."""
    first = candidate(tmp_path)
    store.add(first)
    store.add(candidate(tmp_path, content=b"newer"))
    (store.path / ".current.staged").symlink_to("versions/1")
    (store.path / "versions" / ".3.staged").mkdir()
    assert store.add(first).version == 1
    assert names(store.path) == [".lock", "current", "versions"]
    assert names(store.path / "versions") == ["1", "2"]


def test_a_version_that_was_changed_is_not_rolled_back_to(store: ModelStore, tmp_path: Path):
    version = store.add(candidate(tmp_path))
    version.model_file.chmod(0o644)
    version.model_file.write_bytes(b"Weights")
    with pytest.raises(PromotionError, match=r"ckpt: expected the digest .* changed after its promotion"):
        store.roll_back(1)
    version.model_file.unlink()
    with pytest.raises(PromotionError, match=r"ckpt: cannot be read: No such file .*roll back"):
        store.roll_back(1)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"version": 1}'])
def test_a_damaged_description_is_refused(store: ModelStore, tmp_path: Path, damage: str):
    version = store.add(candidate(tmp_path))
    (version.path / "version.json").chmod(0o644)
    (version.path / "version.json").write_text(damage)
    with pytest.raises(PromotionError, match="expected a version of the model store"):
        store.current()


@pytest.mark.parametrize(
    "changes",
    [
        {"files": "none"},
        {"files": {}},
        {"files": {"../../elsewhere": "0" * 64}},
        {"files": {"a\0b": "0" * 64}},
        {"files": {"x" * 300: "0" * 64}},
        {"files": {"config.json": 7}},
        {"model": "config.json"},
        {"model": 3},
        {"version": "1"},
        {"version": True},
        {"accuracy": "good"},
        {"run": None},
    ],
    ids=str,
)
def test_a_description_with_something_else_in_a_field_is_refused(store: ModelStore, tmp_path: Path, changes):
    description = store.add(candidate(tmp_path)).path / "version.json"
    whole = json.loads(description.read_bytes())
    if isinstance(changes.get("files"), dict) and changes["files"]:
        changes = {"files": whole["files"] | changes["files"]}
    description.chmod(0o644)
    description.write_text(json.dumps(whole | changes))
    with pytest.raises(PromotionError, match=r"version\.json: expected .* restore it"):
        store.current()


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"version": 1}', None, "a link in a circle"])
def test_a_damaged_old_version_blocks_no_promotion_and_its_number_is_not_used_again(store, tmp_path, damage):
    old = store.add(candidate(tmp_path))
    description = old.path / "version.json"
    description.unlink()
    if damage == "a link in a circle":
        description.symlink_to(description)
    elif damage is not None:
        description.write_text(damage)
    newer = store.add(candidate(tmp_path, "runs/b/1"))
    assert (newer.version, store.current(), store.versions()) == (2, newer, [newer])
    assert [str(old.path) in str(problem) for problem in store.damaged()] == [True]
    with pytest.raises(PromotionError, match="no version 1; there are 2"):
        store.roll_back(1)


def test_the_newest_version_damaged_and_current_makes_way_for_the_next(store, tmp_path):
    first = store.add(candidate(tmp_path))
    (first.path / "version.json").unlink()
    assert store.current_number() == 1
    assert store.add(candidate(tmp_path, "runs/b/1")).version == 2
    assert store.current_number() == 2


def test_what_is_no_version_in_the_folder_of_versions_is_none(store, tmp_path):
    for name in ("1.bak", "notes", "٣", "0", "01"):
        (store.path / "versions" / name).mkdir(parents=True)
    assert store.add(candidate(tmp_path)).version == 1
    assert store.damaged() == []


def test_where_the_kernel_cannot_copy_the_bytes_are_copied(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unsupported(*_: int) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", unsupported)
    assert store.add(candidate(tmp_path)).model_file.read_bytes() == b"weights"


def test_a_full_disk_leaves_no_version(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store.add(candidate(tmp_path, run="runs/a/1"))

    def no_space(*_: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", no_space)
    with pytest.raises(PromotionError, match="cannot change the store: No space left on device; make room"):
        store.add(candidate(tmp_path, run="runs/a/2"))
    assert names(store.path / "versions") == ["1"]


def in_a_child(function, *arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def test_promotions_at_once_get_different_numbers(store: ModelStore, tmp_path: Path):
    candidates = [candidate(tmp_path, run=f"runs/a/{number}") for number in range(8)]
    processes = [in_a_child(store.add, promoted) for promoted in candidates]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert [version.version for version in store.versions()] == list(range(1, 9))
    assert {version.run for version in store.versions()} == {promoted.run for promoted in candidates}
    assert (store.path / "current").readlink() == Path("versions/8")


def die_at_call(number: int, module: object, name: str) -> None:
    """End this process by SIGKILL at the `number`-th call of `module.name`."""
    genuine, calls = getattr(module, name), []

    def dying(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(*arguments, **options)

    setattr(module, name, dying)


MOMENTS = [
    (1, version, "_copy"),
    (1, version, "file_digest"),
    (1, version, "_make_durable"),
    (3, version, "_make_durable"),
    (1, Path, "rename"),
    (1, atomic, "sync_directory"),
    (2, atomic, "sync_directory"),
    (3, atomic, "sync_directory"),
    (1, Path, "symlink_to"),
    (1, Path, "replace"),
]


@pytest.mark.parametrize(("call", "module", "name"), MOMENTS)
def test_a_crash_leaves_no_version_or_a_whole_one(store: ModelStore, tmp_path: Path, call, module, name):
    before = store.add(candidate(tmp_path, run="runs/a/1"))
    promoted = candidate(tmp_path, run="runs/a/2")

    def crash() -> None:
        die_at_call(call, module, name)
        store.add(promoted)

    process = in_a_child(crash)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for each in store.versions():
        each.verify()
    now = store.current()
    assert now is not None
    assert now.version in (1, 2)
    again = store.add(promoted)
    assert again.version == 2
    assert store.versions() == [before, again]
    assert store.current() == again
    assert names(store.path / "versions") == ["1", "2"]
    assert names(store.path) == [".lock", "current", "versions"]


def command(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks.model_store", *arguments],
        cwd=PROJECT,
        env=os.environ | {"SHARDLINE_HOME": str(home.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_lists_and_rolls_back(home: Home, store: ModelStore, tmp_path: Path):
    assert json.loads(command(home, "current", "--model", "digits").stdout) == {"model": "digits", "current": None}
    for number in (1, 2):
        store.add(candidate(tmp_path, run=f"runs/a/{number}", accuracy=0.9 + number / 100))
    rolled_back = command(home, "rollback", "1", "--model", "digits")
    assert json.loads(rolled_back.stdout.splitlines()[-1])["current"]["version"] == 1
    listed = command(home, "list", "--model", "digits").stdout.splitlines()
    assert listed[0].startswith("*    1  accuracy 0.9100  ")
    assert listed[1].startswith("     2  accuracy 0.9200  ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("rollback", "1"), 1, "PromotionError: "),
        (("list", "--model", "../runs"), 2, "ConfigError: "),
        (("rollback", "one"), 2, "invalid int value"),
    ],
)
def test_the_command_line_refuses_nonsense(home: Home, arguments: tuple[str, ...], code: int, message: str):
    finished = command(home, *arguments)
    assert finished.returncode == code
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_folder_in_the_place_of_current_is_named(store: ModelStore, tmp_path: Path):
    version = store.add(candidate(tmp_path))
    (store.path / "current").unlink()
    shutil.copytree(version.path, store.path / "current")
    with pytest.raises(PromotionError, match="current"):
        store.roll_back(1)
