import json
import os
import signal
import sys
from pathlib import Path

import pytest

from shardline.base import atomic, process_identity
from shardline.base.digest import file_digest
from shardline.base.errors import OutputError
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.merging.staged_folder import publish_folder, staged_folder
from shardline.checkpoint.strategy.layout import Layout
from tests.durability import recorded
from tests.shardline.checkpoint.sharding import SHAPES, save_shards, save_strategy, tensors

NAMED = ("open", "os.mkdir", "os.rename")
ANYWHERE = ("os.remove", "os.rmdir", "ctypes.dlsym", "fsync")
"""What is removed is named within an open folder; and the last two name nothing."""


def fill(folder: Path, text: str) -> None:
    (folder / "rank_0").mkdir()
    atomic.write_text(folder / "rank_0" / "file", text)


def publish(output: Path, text: str, replaces: bool = False) -> None:
    with staged_folder(output, replaces) as folder:
        fill(folder, text)
        publish_folder(folder, output)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_whole_and_durably(tmp_path):
    with recorded(tmp_path) as durability:
        publish(tmp_path / "out", "new")
    durability.check(tmp_path / "out")
    assert (tmp_path / "out/rank_0/file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_folder_that_is_there_stays_unless_it_is_replaced(tmp_path):
    publish(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="is there already, and not empty"):
        publish(tmp_path / "out", "new")
    assert (tmp_path / "out/rank_0/file").read_text() == "old"
    publish(tmp_path / "out", "new", replaces=True)
    assert (tmp_path / "out/rank_0/file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_may_be_there(tmp_path):
    (tmp_path / "out").mkdir()
    publish(tmp_path / "out", "new")
    assert (tmp_path / "out/rank_0/file").read_text() == "new"


def test_where_names_cannot_be_exchanged_the_old_one_steps_aside(tmp_path, monkeypatch):
    publish(tmp_path / "out", "old")
    monkeypatch.setattr(atomic, "exchange", lambda path, other: False)
    publish(tmp_path / "out", "new", replaces=True)
    assert (tmp_path / "out/rank_0/file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_what_failed_leaves_nothing_and_what_was_there(tmp_path):
    publish(tmp_path / "out", "old")

    def fail() -> None:
        with staged_folder(tmp_path / "out", replaces=True) as folder:
            fill(folder, "new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        fail()
    assert (tmp_path / "out/rank_0/file").read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["a", "a[1]", "*", "a.b"])
def test_what_other_outputs_staged_stays(tmp_path, name):
    """Neither another name that a pattern would match, nor one that begins alike."""
    others = [".a1.{}.staged", ".a.b.c.{}.staged", ".x.{}.staged"]
    gone = f"{2**22 + 1}-1@{process_identity.place()}"  # a number that no process has
    for other in others:
        (tmp_path / other.format(gone)).mkdir()
    own = tmp_path / f".{name}.{gone}.staged"
    own.mkdir()
    fill(own, "left by a process that is no more")
    publish(tmp_path / name, "new")
    assert sorted(names(tmp_path)) == sorted([name, *(other.format(gone) for other in others)])


def test_what_a_running_process_stages_stays(tmp_path):
    parent = os.getppid()
    running = tmp_path / f".out.{parent}-{process_identity.started(parent)}@{process_identity.place()}.staged"
    running.mkdir()
    elsewhere = tmp_path / ".out.1@another-host.staged"
    elsewhere.mkdir()
    fill(elsewhere, "written to just now")
    os.utime(elsewhere, (0, 0))  # what is written into its files doesn't change the folder's own time
    publish(tmp_path / "out", "new")
    assert running.is_dir()
    assert elsewhere.is_dir()


def _count_or_kill(root: Path, number: int | None) -> list[int]:
    """Count what happens below `root` in this process, and end it by SIGKILL at the event of that number."""
    count = [0]

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event in ANYWHERE or (event in NAMED and str(root) in str(arguments[0])):
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    flush = os.fsync

    def fsync(file: int) -> None:
        sys.audit("fsync", file)
        flush(file)

    os.fsync = fsync
    return count


def _in_a_process(root: Path, number: int | None, request: ReshardRequest, exchanges: bool) -> tuple[int, int]:
    """Reshard in a fork, killed at its event of that number: the signal that ended it, and how many events it had."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = _count_or_kill(root, number)
        if not exchanges:
            atomic.exchange = lambda path, other: False
        try:
            reshard(request)
            os.write(writing, str(count[0]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, int(pipe.read() or b"0")


def whole(folder: Path) -> int:
    """Of how many ranks the slices in `folder` are, all of them as its record says."""
    record = json.loads((folder / "reshard.json").read_bytes())
    for file in record["files"]:
        assert file_digest(folder / file["path"]) == file["digest"], file["path"]
    assert len(names(folder)) == record["world_size"] + 1
    return int(record["world_size"])


@pytest.mark.parametrize("exchanges", [True, False])
def test_killed_anywhere_one_whole_folder_is_there(tmp_path, exchanges):
    layouts = {name: Layout((2,), ((0,), *((),) * (len(shape) - 1))) for name, shape in SHAPES.items()}
    save_shards(tmp_path / "shards", tensors(), layouts, world_size=2)
    two = save_strategy(tmp_path / "2.ckpt", layouts)
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "resharded"
    source = {"shards": tmp_path / "shards", "strategies": (two,), "replaces": True, "workers": 1}
    old = ReshardRequest((two,), output, **source)
    new = ReshardRequest((), output, unsharded=True, **source)
    reshard(old)
    signalled, count = _in_a_process(tmp_path / "out", None, new, exchanges)
    assert (signalled, whole(output)) == (0, 1)
    assert count > 20
    found = set()
    for number in range(1, count + 1):
        reshard(old)
        assert names(tmp_path / "out") == ["resharded"]
        signalled, _ = _in_a_process(tmp_path / "out", number, new, exchanges)
        assert signalled == signal.SIGKILL
        if not output.exists() and not exchanges:  # between two renames: what was there stands aside, whole
            found.add(whole(tmp_path / "out" / ".resharded.replaced"))
            continue
        found.add(whole(output))
    assert found == {1, 2}
