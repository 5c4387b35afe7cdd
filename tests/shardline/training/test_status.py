"""What a rank is at, as the run page reads it."""

import json
import os
import time

from shardline.training import status
from shardline.training.status import Status
from tests.patience import PATIENCE_S


def test_a_status_says_where_the_rank_is_and_what_it_takes(tmp_path):
    file = tmp_path / "rank.3" / "status.json"
    Status(file, 3, 40, lambda: None).update(50, finished=True)
    found = json.loads(file.read_text())
    assert (found["rank"], found["pid"], found["step"]) == (3, os.getpid(), 50)
    assert found["steps_per_second"] > 0
    assert found["peak_memory_bytes"] >= found["memory_bytes"] > 1 << 20
    assert abs(found["time"] - time.time()) < PATIENCE_S
    assert [path.name for path in file.parent.iterdir()] == ["status.json"]


def test_it_is_not_written_at_every_step(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "EVERY_SECONDS", 1000)
    file = tmp_path / "status.json"
    watched = Status(file, 0, 0, lambda: 1.25)
    watched.update(1)
    assert not file.exists()
    monkeypatch.setattr(status, "EVERY_SECONDS", 0)
    watched.update(2)
    assert json.loads(file.read_text())["step"] == 2
