"""Following a growing log, and keeping earlier ones."""

import io
import json

import pytest

from shardline.launch import logs
from shardline.launch.logs import Follower


@pytest.fixture
def log(tmp_path):
    return tmp_path / "stdout"


def test_lines_appear_when_they_are_complete(log):
    shown = io.BytesIO()
    follower = Follower(log, shown)
    follower.follow()
    with log.open("ab", buffering=0) as writer:
        writer.write(b"one\ntw")
        follower.follow()
        assert shown.getvalue() == b"one\n"
        writer.write(b"o\n")
        follower.follow()
        assert shown.getvalue() == b"one\ntwo\n"
        writer.write(b"three")
    follower.finish()
    assert shown.getvalue() == b"one\ntwo\nthree\n"


def test_a_character_split_between_two_reads_stays_whole(log):
    shown = io.BytesIO()
    follower = Follower(log, shown)
    with log.open("ab", buffering=0) as writer:
        writer.write("§".encode()[:1])
        follower.follow()
        writer.write("§".encode()[1:] + b"\n")
    follower.finish()
    assert shown.getvalue() == "§\n".encode()


def test_the_newest_json_object_is_kept_back_as_the_result(log):
    lines = [{"step": 1}, "text", "[1]", "{broken", {"step": 2}, "the end"]
    log.write_text("".join(f"{json.dumps(line) if isinstance(line, dict) else line}\n" for line in lines))
    shown = io.BytesIO()
    follower = Follower(log, shown)
    follower.finish()
    assert follower.result == {"step": 2}
    assert shown.getvalue().decode().splitlines() == ["text", "[1]", "{broken", '{"step": 1}', "the end"]


def test_a_log_larger_than_a_read_comes_whole(log):
    lines = [f"line {number} {'.' * 100}" for number in range(30_000)]
    log.write_text("\n".join(lines))
    shown = io.BytesIO()
    Follower(log, shown).finish()
    assert shown.getvalue().decode().splitlines() == lines


def test_the_last_lines_leave_out_blank_ones_and_cut_long_ones(log):
    log.write_bytes(b"first\n" + b"y" * 2_000_000 + b"\n\n  \n\xffend\n\n")
    assert logs.last_lines(log, 2, width=10) == ["y" * 10 + " …", "\\xffend"]
    assert logs.last_lines(log.with_name("absent"), 2) == []


def test_earlier_logs_are_numbered_by_task(tmp_path):
    for name in ("1", "1", "validate"):
        (tmp_path / name).mkdir()
        moved = logs.set_aside(tmp_path / name)
    assert moved == tmp_path / "earlier" / "1" / "validate"
    assert (tmp_path / "earlier" / "2" / "1").is_dir()
    assert logs.set_aside(tmp_path / "1") is None


def test_a_log_that_takes_an_earlier_ones_place_and_inode_is_read_from_its_beginning(log):
    """As a bounded log's files may, the one after next: the file system gives numbers of inodes again."""
    shown = io.BytesIO()
    follower = Follower(log, shown)
    log.write_bytes(b"first\n" * 1000)
    follower.follow()
    for _ in range(20):
        log.unlink()
        log.write_bytes(b"next\n" * 2000)
    follower.finish()
    assert shown.getvalue() == b"first\n" * 1000 + b"next\n" * 2000
