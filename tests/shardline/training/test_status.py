"""What a rank is at, as the run page reads it."""

import json
import os
import time

from shardline.training import status
from shardline.training.status import Status
from tests.patience import PATIENCE_S


def test_a_status_says_where_the_rank_is_and_what_it_takes(tmp_path):
    file = tmp_path / "rank.3" / "status.json"
    Status(file, 3, range(40, 50), lambda: None).update(50)
    found = json.loads(file.read_text())
    assert (found["rank"], found["pid"], found["step"], found["last_step"]) == (3, os.getpid(), 50, 50)
    assert found["steps_per_second"] > 0
    assert found["peak_memory_bytes"] >= found["memory_bytes"] > 1 << 20
    assert abs(found["time"] - time.time()) < PATIENCE_S
    assert [path.name for path in file.parent.iterdir()] == ["status.json"]


def test_it_is_written_for_the_first_step_and_the_last_and_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "EVERY_SECONDS", 1000)
    file = tmp_path / "status.json"
    watched = Status(file, 0, range(5), lambda: 1.25)
    seen = []
    for step in (1, 2, 3):
        watched.update(step)
        seen.append(json.loads(file.read_text())["step"])
    monkeypatch.setattr(status, "EVERY_SECONDS", 0)
    watched.update(4)
    monkeypatch.setattr(status, "EVERY_SECONDS", 1000)
    watched.update(5)
    assert (seen, json.loads(file.read_text())["step"]) == ([1, 1, 1], 5)


def test_a_resumed_training_says_its_first_step_too(tmp_path):
    file = tmp_path / "status.json"
    Status(file, 0, range(40, 700), lambda: None).update(41)
    found = json.loads(file.read_text())
    assert (found["step"], found["last_step"]) == (41, 700)
