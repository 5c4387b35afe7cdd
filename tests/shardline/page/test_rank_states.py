"""What is said of each rank, from what it left."""

import json
import time
from typing import Any

import pytest

from shardline.page import rank_states as module
from shardline.page.rank_log import last_lines, read_page
from shardline.page.rank_states import describe_ranks, tries


def leave(run, rank, log="", launch="1", **records: dict[str, Any]):
    folder = run.logs.parent / launch / f"rank.{rank}"
    folder.mkdir(parents=True)
    (folder / "stdout").write_text(log)
    for name, document in records.items():
        (folder / f"{name}.json").write_text(json.dumps(document))


def rows(files, running):
    return {row["rank"]: row for row in describe_ranks(files, tries(files)[0], running=running)}


@pytest.mark.parametrize(
    ("records", "running", "state"),
    [
        ({}, True, "starting"),
        ({"started": {}}, True, "running"),
        ({"started": {}, "status": {"time": 0}}, True, "silent"),
        ({"started": {}, "status": {"time": 1e12}}, True, "running"),
        ({"started": {}, "status": {"time": "soon"}}, True, "running"),
        ({"started": {}}, False, "lost"),
        ({"started": {}, "finished": {}}, False, "finished"),
        ({"started": {}, "stopped": {}}, False, "stopped"),
        ({"started": {}, "finished": {}, "failure": {"exit_code": 3}}, True, "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_states(run, files, records, running, state):
    leave(run, 0, **records)
    assert rows(files, running)[0]["state"] == state


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ({"error": "ValueError", "message": "bad"}, "ValueError: bad"),
        ({"signal_number": 9, "exit_code": 137}, "ended by signal 9"),
        ({"exit_code": 3}, "left with exit code 3"),
    ],
)
def test_a_failure_is_said_in_words(run, files, failure, said):
    leave(run, 4, failure=failure)
    assert rows(files, False)[4]["failure"] == said


def test_a_rank_tells_its_measures_and_its_last_word(run, files):
    status = {"step": 70, "steps_per_second": 12.5, "memory_bytes": 10**8, "time": time.time()}
    leave(run, 2, log='epoch: 1 step: 70\n{"result": 1}\n\n', started={"host": "node1", "pid": 77}, status=status)
    row = rows(files, True)[2]
    assert (row["step"], row["memory_bytes"], row["host"], row["pid"]) == (70, 10**8, "node1", 77)
    assert row["last_lines"] == ["epoch: 1 step: 70"]


def test_ranks_come_in_numerical_order_and_other_folders_are_none(run, files):
    for rank in (10, 9, 0):
        leave(run, rank)
    (run.logs / "rank.x").mkdir()
    (run.logs / "rank.007").mkdir()
    assert list(rows(files, True)) == [0, 9, 10]


def test_earlier_tries_are_listed_behind_the_newest(run, files):
    for launch in ("1", "validate", "earlier/2/1", "earlier/10/1", "earlier/1/1"):
        leave(run, 0, launch=launch)
    assert [(one.name, one.task, one.attempt) for one in tries(files)] == [
        ("1", "train", None),
        ("validate", "validate", None),
        ("earlier/1/1", "train", 1),
        ("earlier/2/1", "train", 2),
        ("earlier/10/1", "train", 10),
    ]


def test_how_long_silence_may_last(run, files, monkeypatch):
    leave(run, 0, started={}, status={"time": time.time() - 30})
    assert rows(files, True)[0]["state"] == "running"
    monkeypatch.setattr(module, "SILENT_AFTER_S", 10)
    assert rows(files, True)[0]["state"] == "silent"


def test_pages_of_a_log_join_to_the_whole(run, files):
    text = "".join(f"line {number} ü\n" for number in range(1000))
    leave(run, 0, log=text)
    log = tries(files)[0].log(0)
    last = read_page(files, log, length=500)
    assert last.text.startswith("line ")
    assert last.end == last.size == len(text.encode())
    pieces, start = [], 0
    while start < last.start:
        page = read_page(files, log, start=start, length=min(700, last.start - start))
        pieces.append(page)
        start = page.end
    whole = b"".join(log.read_bytes()[page.start : page.end] for page in [*pieces, last])
    assert whole.decode() == text


def test_a_page_beyond_the_end_is_empty_and_none_is_larger_than_allowed(run, files):
    leave(run, 0, log="x" * 3_000_000)
    log = tries(files)[0].log(0)
    assert read_page(files, log, start=10**9).text == ""
    assert len(read_page(files, log, start=0, length=10**9).text) == 1024 * 1024


def test_bytes_that_are_no_text_are_shown_as_escapes(run, files):
    leave(run, 0)
    log = tries(files)[0].log(0)
    log.write_bytes(b"caf\xe9 \x1b[31m\n")
    assert read_page(files, log).text == "caf\\xe9 \x1b[31m\n"


def test_last_lines_are_cut(run, files):
    leave(run, 0, log="a\n" + "b" * 1000 + "\n")
    assert last_lines(files, tries(files)[0].log(0), 2, width=5) == ["a", "bbbbb …"]
