"""A server that did not answer is let alone for a hundred times as long as the wait was."""

import json
import time

import pytest

from shardline.tracking.silence import Silence

URI = "http://mlflow:5000"


@pytest.fixture
def silence(tmp_path) -> Silence:
    return Silence(tmp_path, URI, 15.0)


def test_a_server_that_nobody_waited_for_may_answer(silence):
    assert silence.seconds_left() == 0


def test_who_waits_in_vain_spares_all_tasks_a_hundred_times_the_wait(silence, tmp_path):
    silence.begin(5.0)
    document = json.loads((tmp_path / "unanswered").read_text())
    assert document == {"uri": URI, "until": pytest.approx(time.time() + 500, abs=100)}
    assert 0 < Silence(tmp_path, URI, 15.0).seconds_left() <= 500


def test_it_is_over_when_the_server_answers(silence):
    silence.begin(5.0)
    silence.end()
    assert silence.seconds_left() == 0
    silence.end()


def test_a_refused_connection_is_no_wait(silence, tmp_path):
    silence.begin(0.01)
    assert list(tmp_path.iterdir()) == []


def test_another_server_may_answer(silence, tmp_path):
    silence.begin(5.0)
    assert Silence(tmp_path, "http://mlflow2:5000", 15.0).seconds_left() == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"uri": "http://mlflow:5000", "until": "never"}',
        b'{"uri": "http://mlflow:5000", "until": 1.0}',
        b'{"uri": "http://mlflow:5000", "until": 1e12}',
        b'{"uri": "http://mlflow:5000", "until": NaN}',
    ],
)
def test_what_nobody_can_have_left_counts_for_nothing(silence, tmp_path, content):
    (tmp_path / "unanswered").write_bytes(content)
    assert silence.seconds_left() == 0


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    silence = Silence(tmp_path / "file", URI, 15.0)
    silence.begin(5.0)
    assert silence.seconds_left() == 0
