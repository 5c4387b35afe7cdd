"""A job that stands still is ended, and says where each rank stands."""

import sysconfig

import psutil
import pytest

from shardline.launch.hang import Growth, place
from shardline.launch.patience import Patience
from shardline.settings.run_config import RunConfig


@pytest.fixture
def directory(directory):
    """A run directory for 4 ranks that may stand still for 6 seconds."""
    directory.write_config(RunConfig(world_size=4, hang_timeout=6))
    return directory


def hung(launch) -> list[str]:
    """The lines of a launch that gives its ranks up."""
    ended = launch.wait()
    assert ended.exit_code == 1
    assert not launch.alive()
    first, *rest = ended.stderr.partition("LaunchError: ")[2].splitlines()
    assert first.startswith("no rank has taken a step or logged a line for longer than hang_timeout")
    return rest


def test_it_says_where_each_rank_stands(start, directory):
    places = hung(start("sleep 600", ranks="2", PATIENCE='{"stacks_s": 600}'))  # until all have answered
    assert [place.partition(".py:")[0] for place in places[:-1]] == [
        "  rank 0: wait_for_all (ranks/scenario",
        "  rank 2: sleep (ranks/scenario",
        "  ranks 1, 3: wait_for_all (ranks/scenario",
    ]
    assert places[-1] == f"All threads of rank N: {directory.logs}/rank.N/stacks"
    assert "most recent call first" in (directory.logs / "rank.2" / "stacks").read_text()


def test_a_rank_that_cannot_answer_is_named(start):
    launch = start("sleep 600", PATIENCE='{"stacks_s": 20}')  # the others answer in time, however busy the machine is
    launch.wait_for_ranks()
    psutil.Process(launch.pid_of_rank(1)).suspend()
    places = hung(launch)
    assert places[0].startswith("  rank 1: no answer")
    assert places[1].startswith("  ranks 0, 2-3: sleep (ranks/scenario.py:")


def test_steps_and_log_lines_are_progress(start, directory):
    ended = start("count 8", ranks="3").wait()
    assert ended.exit_code == 0, ended.stderr


def test_progress_is_the_growth_of_any_file(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    files = [tmp_path / "a", tmp_path / "b"]
    progress = Growth(files)
    assert progress.stalled_s() == 0
    now = 105.0
    assert progress.stalled_s() == 5
    files[1].write_text("x")
    now = 107.0
    assert progress.stalled_s() == 0
    now = 109.5
    assert progress.stalled_s() == 2.5


def test_start_up_is_no_silence_until_it_takes_too_long(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    begins = (tmp_path / "rank.0", tmp_path / "rank.1")
    progress = Growth([tmp_path / "log"], begins, Patience(start_up_s=600))
    assert not progress.stands_still(60)
    now = 600.0
    assert not progress.stands_still(60), "500 seconds of compiling"
    begins[1].write_text("{}")
    now = 602.0
    assert not progress.stands_still(60), "the first step counts as a sign of life"
    now = 663.0
    assert progress.stands_still(60)


def test_a_start_up_that_never_ends_is_given_up(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Growth([tmp_path / "log"], (tmp_path / "rank.0",), Patience(start_up_s=600))
    progress.stands_still(60)
    now = 699.0
    assert not progress.stands_still(60)
    now = 701.0
    assert progress.stands_still(60)
    assert not progress.stands_still(1000), "a longer hang_timeout holds for start-up as well"


def test_the_place_is_the_tasks_own_line_and_what_it_called():
    dump = """Thread 0x01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 9 in wait

Current thread 0x02 (most recent call first):
  File "{library}/mindspore/graph/api.py", line 2432 in _exec_pip
  File "{library}/mindspore/nn/cell.py", line 1409 in __call__
  File "/srv/shardline/shardline/training/loop.py", line 39 in _step
  File "<frozen runpy>", line 88 in _run_code
"""
    text = dump.format(library=sysconfig.get_path("platlib"))
    assert place(text) == "_step (training/loop.py:39), in _exec_pip (graph/api.py:2432)"
    assert place("").startswith("no answer")
