"""A log's pages, put together, are the log: no byte twice, none left out, no character cut in two."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardline.page.rank_log import read_page

TEXT = "epoch 1 → loss 0,5 · 精度 0.93 😀 é\n"


def pages(files, log, length: int) -> list:
    found, start = [], 0
    while not found or start < found[-1].size:
        found.append(read_page(files, log, start=start, length=length))
        assert found[-1].end > start
        start = found[-1].end
    return found


@pytest.mark.parametrize("length", range(1, 60))
def test_no_page_cuts_a_character(run, files, length):
    log = run.path / "stdout"
    log.write_text(TEXT * 3)
    found = pages(files, log, length)
    assert "".join(page.text for page in found) == TEXT * 3
    assert max(page.end - page.start for page in found) <= length + 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(1, 20))
def test_any_bytes_are_all_shown(run, files, content, length):
    log = run.path / "stdout"
    log.write_bytes(content)
    found = pages(files, log, length)
    assert [page.start for page in found] == [0, *(page.end for page in found[:-1])]
    assert found[-1].end == len(content)


def test_a_character_that_is_still_being_written_waits(run, files):
    log = run.path / "stdout"
    log.write_bytes("loss é".encode()[:-1])
    page = read_page(files, log)
    assert (page.text, page.end, page.size) == ("loss ", 5, 6)
    log.write_text("loss é")
    assert read_page(files, log, start=page.end).text == "é"


def test_the_last_page_begins_with_a_whole_line(run, files):
    log = run.path / "stdout"
    log.write_text(TEXT * 100)
    page = read_page(files, log, length=200)
    assert page.text.startswith("epoch 1")
    assert page.end == page.size
